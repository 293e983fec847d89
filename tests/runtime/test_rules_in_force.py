"""A reload replaces the rules as a whole, for every service that was built before it."""

import gc
import weakref
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from sidegate.core.binding import Signal, Signals
from sidegate.core.errors import LimitReached
from sidegate.core.session import Session
from sidegate.core.token import KeyRing, Token, TokenKey
from sidegate.core.verdict import Allow, Deny, Reason
from sidegate.runtime.container import Container, build_services
from sidegate.runtime.handlers import build_admin_application, build_gate
from sidegate.runtime.reload import Reloader
from sidegate.services.rules import Rules
from sidegate.services.sessions import Issued, NewSession
from sidegate.settings import Settings, load
from tests.contracts.values import TESTER

OLD, NEW = TokenKey(1, bytes(range(32))), TokenKey(2, bytes(range(1, 33)))
CLIENT = Signals(ip="192.0.2.7", header="7")
ADA = NewSession("ada", TESTER, binding=CLIENT)


def load_settings(directory: Path, *keys: TokenKey, **variables: str) -> Settings:
    names = {f"SIDEGATE_{name}": value for name, value in variables.items()}
    names["SIDEGATE_TOKEN__KEYS"] = ",".join(key.format() for key in keys)
    return load(None, names | {"SIDEGATE_DATA_DIR": str(directory)})


class Instance:
    """The services of one process, none of which a reload replaces."""

    def __init__(self, container: Container, directory: Path) -> None:
        self.container = container
        self.directory = directory

    async def reload(self, *keys: TokenKey, fails: bool = False, **variables: str) -> None:
        """Reload with these settings; `fails`: the handlers cannot be built."""

        async def prepare(settings: Settings, rules: Rules) -> Callable[[], None]:
            build_gate(settings, self.container, rules=rules)
            build_admin_application(settings, self.container, rules=rules)
            if fails:
                raise RuntimeError
            return lambda: None

        await Reloader(
            load_settings(self.directory, OLD),
            self.container,
            read_settings=lambda: load_settings(self.directory, *keys, **variables),
            prepare=prepare,
        ).reload()

    async def log_in(self) -> Issued:
        return await self.container.sessions.create(ADA)

    async def refresh(self, token: Token) -> Issued:
        issued = await self.container.rotation.refresh(token.text, by=TESTER)
        assert isinstance(issued, Issued)
        return issued

    def is_touched_after(self, session: Session, idle: timedelta) -> bool:
        """Return whether memory notes at once that the session is used after `idle`."""
        at = session.last_seen_at + idle
        self.container.activity.on_allowed(session, at)
        copy = self.container.memory.get_nowait(session.digest)
        assert copy is not None
        return copy.last_seen_at == at


def has_made(key: TokenKey, token: Token) -> bool:
    return isinstance(KeyRing([key]).parse(token.text), Token)


@pytest.fixture
async def instance(tmp_path: Path) -> AsyncIterator[Instance]:
    async with build_services(load_settings(tmp_path, OLD)) as container:
        yield Instance(container, tmp_path)


async def test_new_sessions_get_the_new_key_lifetime_limit_and_prefix(instance: Instance) -> None:
    old = await instance.log_in()
    await instance.reload(
        NEW,
        OLD,
        SESSIONS__WEB__LIFETIME="2h",
        SESSIONS__WEB__LIMIT="2",
        SESSIONS__WEB__AT_LIMIT="refuse",
        BINDING__IP="deny",
        BINDING__IPV4_PREFIX="32",
    )
    new = await instance.log_in()

    assert (has_made(OLD, old.token), has_made(NEW, new.token)) == (True, True)
    session = new.record.session
    assert session.expires_at - session.created_at == timedelta(hours=2)
    with pytest.raises(LimitReached):
        await instance.log_in()
    neighbour = Signals(ip="192.0.2.8")  # in the same network of 24 bits
    binding, watched = instance.container.binding, (Signal.IP,)
    assert binding.mismatched(session, neighbour, watched=watched) == (Signal.IP,)


async def test_rotation_uses_the_new_key_and_grace(instance: Instance) -> None:
    old = await instance.log_in()
    await instance.reload(NEW, OLD, SESSIONS__WEB__GRACE="2m")
    refreshed = await instance.refresh(old.token)

    assert has_made(NEW, refreshed.token)
    session = refreshed.record.session
    assert session.previous_until - session.last_seen_at == timedelta(minutes=2)


async def test_validator_refuses_tokens_of_a_removed_key(instance: Instance) -> None:
    old = await instance.log_in()
    await instance.reload(NEW, OLD)
    assert isinstance(await instance.container.validator.validate(old.token.text), Allow)
    await instance.reload(NEW)

    assert await instance.container.validator.validate(old.token.text) == Deny(Reason.FORGED)


async def test_binding_applies_the_new_policy(instance: Instance) -> None:
    session, binding = (await instance.log_in()).record.session, instance.container.binding
    assert binding.apply_policy(session, [Signal.HEADER]) == Allow(session)
    await instance.reload(OLD, BINDING__HEADER__NAME="X-Device", BINDING__HEADER__POLICY="deny")

    assert binding.apply_policy(session, [Signal.HEADER]) == Deny(Reason.BINDING)


async def test_activity_uses_the_new_touch_threshold(instance: Instance) -> None:
    session, idle = (await instance.log_in()).record.session, timedelta(seconds=90)
    await instance.reload(OLD, SESSIONS__WEB__TOUCH_THRESHOLD="2m")
    assert not instance.is_touched_after(session, idle)
    await instance.reload(OLD, SESSIONS__WEB__TOUCH_THRESHOLD="1m")

    assert instance.is_touched_after(session, idle)


async def test_no_service_keeps_the_old_rules(instance: Instance) -> None:
    """Locks, logout and background revocation hold `Sessions`, and so the rules in force."""
    await instance.log_in()
    old = weakref.ref(instance.container.rules.current.ring)
    await instance.reload(NEW)
    gc.collect()

    assert old() is None


async def test_failed_reload_keeps_the_rules(instance: Instance) -> None:
    rules = instance.container.rules.current
    await instance.reload(NEW, SESSIONS__WEB__LIFETIME="2h", fails=True)

    assert instance.container.rules.current is rules
