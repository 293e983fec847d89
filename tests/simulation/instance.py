"""One instance: the product's services and background tasks, and requests to them."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Final, TypeVar

from sidegate.core.actor import Actor
from sidegate.core.condition import Condition
from sidegate.core.errors import (
    Conflict,
    LimitReached,
    RevocationPending,
    SessionEnded,
    SessionExists,
    StoreUnavailable,
)
from sidegate.core.idempotency import Idempotency
from sidegate.core.memory_entry import MemoryEntry
from sidegate.core.protocols import Prefetched
from sidegate.core.session import Session, SessionId
from sidegate.core.session_type import SessionType
from sidegate.core.timeouts import with_timeout
from sidegate.core.token import TokenText
from sidegate.core.verdict import Allow, Deny, Unavailable, Verdict
from sidegate.runtime import server
from sidegate.runtime.background_tasks import BackgroundTaskRunner
from sidegate.runtime.container import Container, build_services
from sidegate.services.locks import Acquired
from sidegate.services.sessions import Issued, NewSession
from sidegate.settings import Settings
from tests.simulation.world import Machine, World

_T = TypeVar("_T")

_BY: Final = Actor("key:simulation")
# Not run: they serve no promise that is checked, or measure the real process.
_LEFT_OUT: Final = frozenset({"analytics", "gc", "store_monitor", "binding_revocations"})
# Seconds for one request to the admin API, as web/admin limits it.
_ADMIN_TIMEOUT: Final = 10.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What a client gets. `status` 0: no response."""

    status: int
    session: Session | None = None
    token: str | None = None
    sessions: tuple[str, ...] = ()


NO_REPLY: Final = Reply(0)


class Instance:
    """An instance, which can crash at any await, and start again with an empty memory."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self._world = world
        self.machine: Machine = world.add_machine(name)
        self.container: Container | None = None
        self._died: asyncio.Future[None] = world.loop.create_future()
        self._is_serving = asyncio.Event()

    @property
    def is_serving(self) -> bool:
        return self.container is not None

    def start(self) -> None:
        self._died = self._world.loop.create_future()
        self.machine.process.spawn(self._serve())

    def crash(self) -> None:
        """Die at once, wherever its tasks are."""
        self.machine.process.kill()
        self.container = None
        self._is_serving.clear()
        self.machine.redis.reset()
        if not self._died.done():
            self._died.set_result(None)
        before = self.machine
        self.machine = self._world.add_machine(self.name)
        self.machine.database.is_cut = before.database.is_cut
        self.machine.redis.is_cut = before.redis.is_cut
        self.machine.redis.server = before.redis.server

    async def _serve(self) -> None:
        settings = self._world.settings
        async with build_services(settings) as container:
            runner = BackgroundTaskRunner(
                container.metrics.count_background_task_failure,
                monotonic=container.clock.monotonic,
            )
            await server._connect_stores(container)  # noqa: SLF001 - as `serve` does
            tasks = [
                task
                for task in server.build_background_tasks(settings, container)
                if task.name not in _LEFT_OUT
            ]
            async with runner.run(tasks):
                self.container = container
                self._is_serving.set()
                self._world.tell(self.name, "ready")
                await asyncio.get_running_loop().create_future()

    async def wait_until_serving(self, seconds: float) -> None:
        """Return when it serves, or after so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._is_serving.wait()

    def on_commit(self) -> None:
        """Receive a notification of the database."""
        if self.container is not None and not self.machine.process.is_dead:
            self.container.change_poller.wake()

    # Requests

    async def request(
        self, handle: Callable[[Container], Awaitable[Reply]], *, within: float
    ) -> Reply:
        """Return the reply; without one in time, or if the instance dies, NO_REPLY."""
        if self.container is None:
            return NO_REPLY
        task = self.machine.process.spawn(_answer(handle(self.container)))
        waiting: tuple[asyncio.Future[Any], ...] = (task, self._died)
        await asyncio.wait(waiting, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else NO_REPLY


async def _answer(handling: Awaitable[Reply]) -> Reply:
    """Translate what a handler raises, as the admin API does."""
    try:
        return await handling
    except StoreUnavailable:
        return Reply(HTTPStatus.SERVICE_UNAVAILABLE)
    except RevocationPending:
        return Reply(HTTPStatus.ACCEPTED)
    except (SessionExists, LimitReached, SessionEnded, Conflict):
        return Reply(HTTPStatus.CONFLICT)


async def check(container: Container, text: str, *, is_prefetched: bool) -> Reply:
    """Check a token as the gate does: in memory, then in Redis, then by the database."""
    try:
        verdict, now = await _check(container, text, is_prefetched=is_prefetched)
    except StoreUnavailable:
        return Reply(HTTPStatus.SERVICE_UNAVAILABLE)
    match verdict:
        case Allow(session):
            container.activity.on_allowed(session, now)
            return Reply(HTTPStatus.OK, session)
        case Deny():
            return Reply(HTTPStatus.UNAUTHORIZED)
        case Unavailable():
            return Reply(HTTPStatus.SERVICE_UNAVAILABLE)


async def _check(
    container: Container, text: str, *, is_prefetched: bool
) -> tuple[Verdict, datetime]:
    validator, now = container.validator, container.clock.now()
    found = validator.check_memory(TokenText(text.encode("ascii")), now)
    if isinstance(found, MemoryEntry):
        return Allow(found.session), now
    if isinstance(found, Deny):
        return found, now
    elapsed = None
    if is_prefetched:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Prefetched] = loop.create_future()
        started = loop.time()
        if validator.prefetch(found, done.set_result):
            prefetched = await done
            elapsed, now = loop.time() - started, container.clock.now()
            judged = validator.judge_prefetched(prefetched, now)
            if isinstance(judged, MemoryEntry):
                return Allow(judged.session), now
            if judged is not None:
                return judged, now
    verdict = await validator.validate(text, elapsed=elapsed)
    return verdict, container.clock.now()


async def create(container: Container, user: str, type_: SessionType, key: str) -> Reply:
    new = NewSession(user, by=_BY, type=type_)
    idempotency = Idempotency.from_request(api_key="simulation", key=key, body=user.encode())
    return _read_issued(await _limited(container.sessions.create(new, key=idempotency)))


async def revoke(container: Container, session: str) -> Reply:
    record = await _limited(
        container.sessions.revoke(SessionId(session), by=_BY, reason="simulated")
    )
    return Reply(HTTPStatus.NOT_FOUND if record is None else HTTPStatus.OK)


async def revoke_user(container: Container, user: str) -> Reply:
    async def revoke_all() -> None:
        condition = Condition(user)
        async for _ in container.sessions.revoke_where(condition, by=_BY, reason="simulated"):
            pass

    await _limited(revoke_all())
    return Reply(HTTPStatus.OK)


async def refresh(container: Container, text: str) -> Reply:
    result = await _limited(container.rotation.refresh(text, by=_BY))
    if isinstance(result, Deny):
        return Reply(HTTPStatus.UNAUTHORIZED)
    return _read_issued(result)


async def migrate(container: Container, session: str) -> Reply:
    issued = await _limited(
        container.rotation.migrate(SessionId(session), by=_BY, provider="simulated")
    )
    return Reply(HTTPStatus.NOT_FOUND) if issued is None else _read_issued(issued)


async def list_sessions(container: Container, user: str) -> Reply:
    records = await _limited(container.sessions.list_where(Condition(user), limit=200))
    return Reply(HTTPStatus.OK, sessions=tuple(record.session.id for record in records))


async def lock(container: Container, session: str, ttl: timedelta) -> Reply:
    """Acquire the lock of a session."""
    match await _limited(container.locks.acquire(SessionId(session), ttl=ttl)):
        case None:
            return Reply(HTTPStatus.NOT_FOUND)
        case Acquired():
            return Reply(HTTPStatus.OK)
        case _:
            return Reply(HTTPStatus.CONFLICT)


def _read_issued(issued: Issued) -> Reply:
    return Reply(HTTPStatus.OK, issued.record.session, issued.token.text)


async def _limited(work: Awaitable[_T]) -> _T:
    return await with_timeout(work, _ADMIN_TIMEOUT, store="deadline")


async def run_command(
    world: World, action: Callable[[Container], Awaitable[Reply]], *, has_redis: bool
) -> Reply:
    """Run a command of the command line, in a process of its own."""
    machine = world.add_machine("command")
    settings = world.settings
    if not has_redis:
        settings = settings.model_copy(update={"redis_url": None})
    work = machine.process.spawn(_answer(_run_command(settings, action)))
    await asyncio.wait({work}, timeout=_ADMIN_TIMEOUT)
    reply = work.result() if work.done() else NO_REPLY
    machine.process.kill()
    machine.redis.reset()
    return reply


async def _run_command(
    settings: Settings, action: Callable[[Container], Awaitable[Reply]]
) -> Reply:
    async with server.open_services(settings) as container:
        container.clock.now()  # raises before anything is changed
        return await action(container)
