"""The checks of requests to which access rules apply."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from time import perf_counter
from typing import Final, NamedTuple, Protocol, Unpack

from sidegate.core.memory_entry import MemoryEntry
from sidegate.core.protocols import OnPrefetched, Prefetched
from sidegate.core.requirement import Access, Requirement
from sidegate.core.rules import Decision, Rule, RuleTable
from sidegate.core.session import Session
from sidegate.core.verdict import Allow, Anonymous, Answer, Verdict
from sidegate.services.tenants import Tenants
from sidegate.services.validator import Presented
from sidegate.web.gate.check import (
    ANONYMOUS,
    Check,
    CheckEvents,
    CheckServices,
    Labels,
    get_labels,
    log_check,
)
from sidegate.web.gate.returning import return_headers
from sidegate.web.gateways.base import GatewayPolicy, GatewayProtocol
from sidegate.web.server.handler import RequestHandler
from sidegate.web.server.messages import Head, Response
from sidegate.web.server.response_bytes import EncodedResponse, encode_response

GatewayType = Callable[[GatewayPolicy], GatewayProtocol]
CountShadow = Callable[[str, Labels], None]
"""Called with the name of a rule that is not enforced, and the labels of what it would answer."""

# A session is looked up for other reasons only, so it is not known whether it would be allowed.
_NOT_CHECKED: Final[Labels] = ("unchecked", "public")
# The database does not tell it.
_UNKNOWN_TENANT: Final[Labels] = ("unchecked", "tenant")


class RuleEvents(Protocol):
    """Counters by rule. The names of rules come from the settings."""

    def count_by_rules(self, rules: tuple[str, ...]) -> CheckEvents:
        """Return the counters of the checks to which all of these rules apply."""
        ...

    def count_shadow(self, rule: str, labels: Labels) -> None: ...


class AccessRules(NamedTuple):
    """The access rules in force, and their counters."""

    table: RuleTable
    events: RuleEvents
    tenants: Tenants


class RuleCheckBuilder:
    """Builds the checks of one gateway protocol, by the rules that apply."""

    def __init__(
        self,
        gateway_type: GatewayType,
        policy: GatewayPolicy,
        *,
        rules: AccessRules,
        services: CheckServices,
    ) -> None:
        self._gateway = gateway_type(policy)
        # What a request without a session returns may not depend on its credential.
        self._open_gateway = gateway_type(replace(policy, drops_embedded=True))
        self._policy = policy
        self._events = rules.events
        self._tenants = rules.tenants
        self._services = services

    def build(self, decision: Decision) -> RequestHandler:
        """Return the check of requests to which these rules apply."""
        requirement = decision.requirement
        names = tuple(dict.fromkeys(rule.name for rule in decision.rules))
        services = self._services.copy()
        services["events"] = self._events.count_by_rules(names)
        if not requirement.counts_activity:
            services["on_allowed"] = lambda _, __: None
        check = self._build_check(requirement, decision.shadow, services=services)
        is_open = requirement.access is not Access.SESSION
        return return_headers(check, self._open_gateway if is_open else self._gateway)

    def _build_check(
        self, requirement: Requirement, shadow: tuple[Rule, ...], *, services: CheckServices
    ) -> RequestHandler:
        gateway, policy, count_shadow = self._gateway, self._policy, self._events.count_shadow
        if requirement.access is Access.PUBLIC:
            return PublicCheck(
                gateway,
                policy,
                events=services["events"],
                shadow=shadow,
                count_shadow=count_shadow,
            )
        if requirement.access is Access.SESSION and not requirement.has_conditions and not shadow:
            return Check(gateway, policy, **services)
        return RuleCheck(
            gateway,
            policy,
            requirement=requirement,
            shadow=shadow,
            count_shadow=count_shadow,
            tenants=self._tenants,
            **services,
        )


class RuleCheck(Check):
    """A check whose session has to satisfy the requirement of rules, or may be missing."""

    def __init__(
        self,
        gateway: GatewayProtocol,
        policy: GatewayPolicy,
        *,
        requirement: Requirement,
        shadow: Iterable[Rule],
        count_shadow: CountShadow,
        tenants: Tenants,
        **services: Unpack[CheckServices],
    ) -> None:
        """`shadow` are rules that are only counted."""
        super().__init__(gateway, policy, **services)
        self._requirement = requirement
        self._has_conditions = requirement.access is Access.SESSION and requirement.has_conditions
        self._shadow = tuple(shadow)
        self._count_shadow = count_shadow
        self._tenants = tenants
        self._needs_tenant = requirement.tenants is not None
        shadow_needs = any(rule.requirement.tenants is not None for rule in self._shadow)
        self._reads_tenant = self._needs_tenant or shadow_needs

    async def _validate(
        self, presented: Presented, *, budget: float | None, elapsed: float | None
    ) -> Verdict:
        begun = perf_counter() - (elapsed or 0.0)
        verdict = await super()._validate(presented, budget=budget, elapsed=elapsed)
        if self._reads_tenant and isinstance(verdict, Allow):
            spent = perf_counter() - begun
            outage = await self._tenants.load(verdict.session, spent=spent)
            if outage is not None and self._needs_tenant:  # rules in shadow change no answer
                return outage
        return verdict

    def _allow(
        self, entry: MemoryEntry, head: Head, *, now: datetime, elapsed: float | None
    ) -> EncodedResponse | None:
        """Use the cached response only if nothing has to be denied or counted."""
        session, tenant = entry.session, None
        if self._reads_tenant:
            if not self._tenants.knows(session):
                return None
            tenant = self._tenants.get_known(session)
        if self._shadow or (
            self._has_conditions
            and self._requirement.find_denial(session, now, tenant=tenant) is not None
        ):
            return self._reply(entry, head, now=now, elapsed=elapsed)
        return super()._allow(entry, head, now=now, elapsed=elapsed)

    def _decide(self, verdict: Verdict, now: datetime | None) -> Answer:
        tenant = self._get_tenant(verdict.session) if isinstance(verdict, Allow) else None
        for rule in self._shadow:
            self._count_shadow(rule.name, self._judge_shadow(rule, verdict, now=now, tenant=tenant))
        return self._requirement.apply(verdict, now, tenant=tenant)

    def _judge_shadow(
        self, rule: Rule, verdict: Verdict, *, now: datetime | None, tenant: str | None
    ) -> Labels:
        if (
            rule.requirement.tenants is not None
            and isinstance(verdict, Allow)
            and not self._tenants.knows(verdict.session)
        ):
            return _UNKNOWN_TENANT
        return get_labels(rule.requirement.apply(verdict, now, tenant=tenant))

    def _get_tenant(self, session: Session) -> str | None:
        return self._tenants.get_known(session) if self._reads_tenant else None


class PublicCheck:
    """The request handler for what is public: no credential is read, and no session looked up."""

    def __init__(
        self,
        gateway: GatewayProtocol,
        policy: GatewayPolicy,
        *,
        events: CheckEvents,
        shadow: Iterable[Rule],
        count_shadow: CountShadow,
    ) -> None:
        self.route: str = gateway.route
        self.roles = gateway.roles
        self.plain_forms = policy.sources.plain_forms
        self._gateway = gateway
        self._counts = events.fast_check_counts(gateway.name)
        self._response = gateway.write(Anonymous())
        self._encoded = encode_response(self._response)
        self._shadow = tuple((rule.name, _would_answer(rule)) for rule in shadow)
        self._count_shadow = count_shadow

    def try_fast(self, head: Head) -> EncodedResponse:
        """Return 200 with empty identity headers."""
        self._count(head)
        return self._encoded

    def prefetch(self, _: Head, __: OnPrefetched) -> bool:
        """Return False: nothing is looked up."""
        return False

    def conclude(self, _: Head, __: Prefetched, *, elapsed: float) -> None:
        """Return None: nothing is prefetched."""

    async def handle(self, head: Head, _: float | None = None) -> Response:
        """Return 200 with empty identity headers."""
        self._count(head)
        return self._response

    def _count(self, head: Head) -> None:
        self._counts[ANONYMOUS] += 1
        for name, labels in self._shadow:
            self._count_shadow(name, labels)
        log_check(self._gateway, head, labels=ANONYMOUS)


def _would_answer(rule: Rule) -> Labels:
    return ANONYMOUS if rule.requirement.access is Access.PUBLIC else _NOT_CHECKED
