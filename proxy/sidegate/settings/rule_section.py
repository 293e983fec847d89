"""The settings of an access rule."""

import re
from collections.abc import Sequence
from typing import Annotated, Final, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, model_validator

from sidegate.core.requirement import Access, Requirement
from sidegate.core.rules import DEFAULT_RULE, Rule
from sidegate.core.session_type import SessionType
from sidegate.settings.section import Nullable, Section
from sidegate.settings.values import PositiveDuration, matching, split_list, to_lower

_T = TypeVar("_T")

_PATH_HINT: Final = (
    "write a path as /health, /users/*/avatar or /public/**, decoded and without a query"
)
# What no path has in its decoded form, or no reading of one.
_ODD: Final = re.compile(r"[\x00-\x1f\x7f%?#;\\]|//|/\.\.?(/|$)")


def _check_path(path: str) -> str:
    if not path.startswith("/") or _ODD.search(path):
        raise ValueError(_PATH_HINT)
    segments = path.removesuffix("/**").split("/")
    if any("**" in segment for segment in segments):
        raise ValueError("write ** only at the end, as in /public/**")
    if any(segment.count("*") > 1 for segment in segments):
        raise ValueError("write at most one * between two slashes")
    return path


def _check_name(name: str) -> str:
    if name == DEFAULT_RULE.name:
        raise ValueError("write another name: this one is of what no rule matches")
    return name


def _check_not_empty(values: Sequence[_T] | None) -> Sequence[_T] | None:
    if values is not None and not values:
        raise ValueError("an empty list matches nothing: leave it out for any")
    return values


NotEmpty: Final = AfterValidator(_check_not_empty)
TextsOrNull: Final = BeforeValidator(split_list, json_schema_input_type=list[str] | str | None)

RuleName = Annotated[
    str,
    matching(r"[A-Za-z][A-Za-z0-9._-]{0,63}", "write up to 64 letters, digits, dots and dashes"),
    AfterValidator(_check_name),
]
RuleHost = Annotated[
    str,
    matching(
        r"\[[0-9A-Fa-f:.]+\]|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*",
        "write hosts without ports, for example app.example.com, *.example.com or [::1]",
    ),
    AfterValidator(str.lower),
]
RulePath = Annotated[str, AfterValidator(_check_path)]
RuleMethod = Annotated[
    str, matching(r"[A-Z][A-Z0-9-]{0,31}", "write methods in upper case, for example GET")
]
RuleType = Annotated[Literal["web", "mobile", "api", "service", "sso"], BeforeValidator(to_lower)]
RuleTenant = Annotated[
    str, matching(r"[^\x00-\x1f\x7f]{1,128}", "write up to 128 printable characters")
]
RuleScope = Annotated[
    str, matching(r"[!#-\[\]-~]{1,128}", 'a scope is printable ASCII without space, " and \\')
]


class RuleSection(Section):
    """An access rule. Where hosts, paths, methods or a condition are not set, any will do."""

    name: Annotated[RuleName | None, Nullable] = None
    hosts: Annotated[tuple[RuleHost, ...] | None, Nullable, TextsOrNull, NotEmpty] = None
    paths: Annotated[tuple[RulePath, ...] | None, Nullable, TextsOrNull, NotEmpty] = None
    methods: Annotated[tuple[RuleMethod, ...] | None, Nullable, TextsOrNull, NotEmpty] = None
    access: Annotated[Literal["public", "optional", "session"], BeforeValidator(to_lower)] = (
        "session"
    )
    types: Annotated[tuple[RuleType, ...] | None, Nullable, TextsOrNull, NotEmpty] = None
    scopes: Annotated[tuple[RuleScope, ...] | None, Nullable, TextsOrNull, NotEmpty] = None
    tenants: Annotated[tuple[RuleTenant, ...] | None, Nullable, TextsOrNull, NotEmpty] = None
    authenticated_within: Annotated[PositiveDuration | None, Nullable] = None
    bound: bool = False
    activity: bool = True
    preflight: bool = False
    shadow: bool = False

    @model_validator(mode="after")
    def _needs_a_session_for_conditions(self) -> Self:
        conditions = (self.types, self.scopes, self.tenants, self.authenticated_within)
        if (any(conditions) or self.bound) and self.access != "session":
            raise ValueError(
                "types, scopes, tenants, authenticated_within and bound need access: session"
            )
        if not self.activity and self.access == "public":
            raise ValueError("activity: nothing counts as activity with access: public")
        return self

    def build(self, name: str) -> Rule:
        """Return the rule, with this name if it has none of its own."""
        requirement = Requirement(
            Access[self.access.upper()],
            types=None if self.types is None else frozenset(map(SessionType, self.types)),
            scopes=frozenset(self.scopes or ()),
            tenants=None if self.tenants is None else frozenset(self.tenants),
            max_age=self.authenticated_within,
            bound=self.bound,
            counts_activity=self.activity,
        )
        return Rule(
            self.name or name,
            requirement,
            hosts=self.hosts,
            paths=self.paths,
            methods=self.methods,
            preflight=self.preflight,
            shadow=self.shadow,
        )
