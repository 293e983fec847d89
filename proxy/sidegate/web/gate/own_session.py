"""A client's own session: its times, another token, and its end.

The gateway passes these requests on as they are, without a check before them. Nothing here counts
as activity: a page that polls must not extend the session.

A browser sends its cookie, and a Basic password that it knows, with requests that other sites
cause, too. So a change by these has to come from a page of the same origin.
"""

import json
import re
from contextlib import suppress
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Final, NamedTuple

from sidegate.core.actor import Actor
from sidegate.core.clock import Clock
from sidegate.core.errors import (
    Conflict,
    IdentityTooLarge,
    RevocationPending,
    StoreUnavailable,
    UnreadableRecord,
)
from sidegate.core.protocols import OnPrefetched, Prefetched
from sidegate.core.session import EPOCH, Session
from sidegate.core.set_cookie import format_cookie, format_expired_cookie
from sidegate.core.token import KeyRing, TokenText
from sidegate.core.verdict import Allow, Deny, Reason, Unavailable, Verdict
from sidegate.services.binding import ClientBinding
from sidegate.services.rotation import Rotation
from sidegate.services.rules import RulesInForce
from sidegate.services.sessions import Issued, Sessions
from sidegate.services.validator import Presented, Validator
from sidegate.web.gateways.base import GatewayPolicy
from sidegate.web.gateways.credentials import list_tokens
from sidegate.web.server.header_lines import Roles, parse_single_value
from sidegate.web.server.messages import Field, Head, Response, build_problem_response
from sidegate.web.server.response_bytes import EncodedResponse

# A page may ask as often as it likes: the token is replaced at most this often.
_MIN_TOKEN_AGE: Final = timedelta(seconds=10)
_USER: Final = Actor("user")
_JSON: Final = (("Cache-Control", "no-store"), ("Content-Type", "application/json"))
_ORIGIN: Final = re.compile(r"https?://([^/?#@\s]+)")


class SessionActions(NamedTuple):
    """What changes a session. `binding` None: sessions are not bound to their clients."""

    rotation: Rotation
    sessions: Sessions
    rules: RulesInForce
    clock: Clock
    binding: ClientBinding | None = None


class OwnSession:
    """The request handler for the session whose token is presented."""

    def __init__(
        self,
        route: str,
        policy: GatewayPolicy,
        *,
        validator: Validator,
        actions: SessionActions | None = None,
    ) -> None:
        """Without `actions` only the times are returned."""
        self.route = route
        self.roles: Roles = policy.build_roles(
            client=b"x-forwarded-for",
            original_host=b"x-forwarded-host",
            fetch_site=b"sec-fetch-site",
            origin=b"origin",
        )
        self.plain_forms = policy.sources.plain_forms
        self._policy = policy
        self._sources = policy.sources
        cookie = policy.sources.cookie
        self._cookie = None if cookie is None else cookie.decode("ascii")
        self._validator = validator
        self._actions = actions

    def try_fast(self, _: Head) -> EncodedResponse | None:
        """Return None: these requests are rare and always use the stores."""
        return None

    def prefetch(self, _: Head, __: OnPrefetched) -> bool:
        """Return False: nothing is prefetched."""
        return False

    def conclude(self, _: Head, __: Prefetched, *, elapsed: float) -> None:
        """Return None: nothing is prefetched."""

    async def handle(self, head: Head, _: float | None = None) -> Response:
        """Return the response to GET, POST (another token) or DELETE (sign out)."""
        match head.method:
            case b"GET" | b"HEAD":
                return await self._show(head)
            case b"POST" | b"DELETE" if self._actions is not None:
                if not self._is_intended(head):
                    return build_problem_response(
                        HTTPStatus.FORBIDDEN, detail="the request comes from another site"
                    )
                change = self._refresh if head.method == b"POST" else self._sign_out
                try:
                    return await change(head, self._actions)
                except (StoreUnavailable, UnreadableRecord, Conflict):
                    return self._policy.write(Unavailable("durable"))
            case _:
                allowed = "GET, HEAD" if self._actions is None else "GET, HEAD, POST, DELETE"
                return build_problem_response(HTTPStatus.METHOD_NOT_ALLOWED, ("Allow", allowed))

    async def _show(self, head: Head) -> Response:
        verdict = await self._validate(self._sources.read(head))
        if not isinstance(verdict, Allow):
            return self._policy.write(verdict)
        return Response(200, _JSON, _encode(_build_times(verdict.session)))

    async def _refresh(self, head: Head, actions: SessionActions) -> Response:
        presented = self._sources.read(head)
        verdict = self._apply_binding(await self._validate(presented), head, actions=actions)
        if not isinstance(verdict, Allow):
            return self._policy.write(verdict)
        session = verdict.session
        if session.is_for_current_token and _is_new(session, actions):
            return Response(200, _JSON, _encode(_build_times(session)))
        token = _find_token(presented, session, ring=actions.rules.current.ring)
        try:
            issued = await actions.rotation.refresh(token, by=_USER)
        except IdentityTooLarge as error:
            return build_problem_response(HTTPStatus.CONFLICT, detail=str(error))
        if isinstance(issued, Deny):
            return self._policy.write(issued)
        return self._respond_issued(issued, head, actions=actions)

    async def _sign_out(self, head: Head, actions: SessionActions) -> Response:
        """Revoke the session. One that has ended, and none at all, are signed out already."""
        presented = self._sources.read(head)
        verdict = await self._validate(presented)
        if isinstance(verdict, Unavailable) or verdict == Deny(Reason.AMBIGUOUS):
            return self._policy.write(verdict)
        if isinstance(verdict, Allow):
            with suppress(RevocationPending):  # it is in effect
                await actions.sessions.revoke(verdict.session.id, by=_USER, reason="signed_out")
        fields: tuple[Field, ...] = ()
        if self._cookie is not None:
            fields = (("Set-Cookie", format_expired_cookie(self._cookie)),)
        return Response(200, (*_JSON, *fields), _encode({"signed_out": True}))

    async def _validate(self, presented: Presented | Deny) -> Verdict:
        if isinstance(presented, Deny):
            return presented
        return await self._validator.validate_presented(presented)

    def _apply_binding(self, verdict: Verdict, head: Head, *, actions: SessionActions) -> Verdict:
        """Deny another client: it must not take the next token from the one that is bound."""
        if not isinstance(verdict, Allow) or actions.binding is None:
            return verdict
        signals = self._policy.signals.read(head, is_list=True)
        if signals is None:
            return verdict
        mismatched = actions.binding.mismatched(
            verdict.session, signals, watched=self._policy.signals.enabled
        )
        return actions.binding.apply_policy(verdict.session, mismatched)

    def _is_intended(self, head: Head) -> bool:
        """Return whether a page of this origin, or no browser at all, has caused the request."""
        if self._sources.has_deliberate_token(head):
            return True
        if head.fetch_site is not None:
            return parse_single_value(head.fetch_site) == "same-origin"
        origin, host = parse_single_value(head.origin), parse_single_value(head.original_host)
        return origin is not None and host is not None and _is_host_of(origin, host)

    def _respond_issued(self, issued: Issued, head: Head, *, actions: SessionActions) -> Response:
        """Return the new token the way that the former one was presented."""
        session, text = issued.record.session, issued.token.text
        document = _build_times(session)
        fields: tuple[Field, ...] = ()
        if self._cookie is not None and self._sources.has_cookie_token(head):
            lifetime = session.expires_at - actions.clock.now()
            value = format_cookie(self._cookie, text, lifetime=lifetime)
            fields = (("Set-Cookie", value),)
        else:
            document["token"] = text
        return Response(200, (*_JSON, *fields), _encode(document))


def _find_token(presented: Presented | Deny, session: Session, *, ring: KeyRing) -> str:
    """Return the one of the presented tokens that has led to the session."""
    for text in map(_decode, list_tokens(presented)):
        token = ring.parse(text)
        if not isinstance(token, Deny) and token.digest() == session.digest:
            return text
    raise Conflict("the token keys were changed")  # since it was validated


def _decode(text: TokenText) -> str:
    return text.decode("ascii")


def _is_new(session: Session, actions: SessionActions) -> bool:
    """Return whether the current token was issued a moment ago."""
    issued_at = max(session.created_at, session.authenticated_at)
    if session.previous_digest is not None and session.previous_until != EPOCH:
        grace = actions.rules.current.lifetimes[session.type].grace
        issued_at = session.previous_until - grace
    return actions.clock.now() - issued_at < _MIN_TOKEN_AGE


def _is_host_of(origin: str, host: str) -> bool:
    """Return whether a page of this origin was loaded from this host, and port if it has one."""
    match = _ORIGIN.fullmatch(origin)
    return match is not None and _strip_default_port(match[1]) == _strip_default_port(host)


def _strip_default_port(host: str) -> str:
    return host.lower().removesuffix(":80").removesuffix(":443")


def _build_times(session: Session) -> dict[str, str | None]:
    """Return the document; `refresh_after` is half-way to the end, which leaves time to retry."""
    middle = session.created_at + (session.expires_at - session.created_at) / 2
    return {
        "type": session.type.value,
        "ends_at": _format_rfc3339(session.expires_at),
        "idle_at": _format_rfc3339(session.idle_at),
        "refresh_after": _format_rfc3339(middle),
    }


def _encode(document: object) -> bytes:
    return json.dumps(document).encode("ascii")


def _format_rfc3339(timestamp: datetime | None) -> str | None:
    if timestamp is None:
        return None
    return timestamp.isoformat(timespec="seconds").replace("+00:00", "Z")
