"""The rules that a reload changes, and the holder of the version in force."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sidegate.core.binding import DEFAULT_PREFIX_LENGTHS, BindingPolicy, PrefixLengths, Signal
from sidegate.core.lifetimes import DEFAULT_LIFETIMES, Lifetimes
from sidegate.core.limits import Limit
from sidegate.core.session import Session
from sidegate.core.session_type import SessionType
from sidegate.core.token import KeyRing


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """One version of the rules.

    `limits` has, for the types with a limit, how many sessions of a user and tenant may be active
    at once. `binding_policies` has the effect of a mismatched client signal; a signal without a
    policy is not compared. `prefix_lengths` are those of the addresses that sessions are bound to.
    `check_identity` raises IdentityTooLarge for a session that may not get a token; it is called
    before the session is stored.
    """

    ring: KeyRing
    lifetimes: Mapping[SessionType, Lifetimes] = field(default_factory=lambda: DEFAULT_LIFETIMES)
    limits: Mapping[SessionType, Limit] = field(default_factory=dict)
    binding_policies: Mapping[Signal, BindingPolicy] = field(default_factory=dict)
    prefix_lengths: PrefixLengths = DEFAULT_PREFIX_LENGTHS
    check_identity: Callable[[Session], None] = lambda _: None

    @property
    def watched_signals(self) -> frozenset[Signal]:
        """The signals that a gateway has to read."""
        policies = self.binding_policies.items()
        return frozenset(signal for signal, policy in policies if policy is not BindingPolicy.OFF)


class RulesInForce:
    """Holds the version of the rules in force; a reload replaces `current` as a whole.

    A service holds this object, not the rules. An operation reads `current` once, so that it works
    under one version from its beginning to its end.
    """

    __slots__ = ("current",)

    def __init__(self, rules: Rules) -> None:
        self.current = rules
