"""The table of the admin door: every route, whom it is for, and what may be said there."""

from typing import Final

from sidegate.web.admin.analytics import AnalyticsRoutes
from sidegate.web.admin.audit import AUDIT_QUERY, AuditRoutes
from sidegate.web.admin.auth import Scope
from sidegate.web.admin.bulk import PAGE_QUERY, PROVIDER_QUERY, ManySessionsRoutes
from sidegate.web.admin.document import DocumentRoutes
from sidegate.web.admin.idempotency_key import IDEMPOTENCY_KEY
from sidegate.web.admin.locks import LockRoutes
from sidegate.web.admin.logout import LOGOUT, BackchannelLogoutRoute
from sidegate.web.admin.oauth2 import OAuth2Routes
from sidegate.web.admin.rotation import RotationRoutes
from sidegate.web.admin.route import Body, Link, ResponseSpec, Route
from sidegate.web.admin.sessions import SessionRoutes
from sidegate.web.schemas import request_body as bodies
from sidegate.web.schemas.analytics import AnalyticsDocument
from sidegate.web.schemas.conditions import RevokeWherePayload
from sidegate.web.schemas.documents import (
    ActiveDocument,
    EventsDocument,
    InactiveDocument,
    IssuedDocument,
    LogoutRefusedDocument,
    PendingDocument,
    RevokedDocument,
    SessionDocument,
    SessionsDocument,
    WouldRevokeDocument,
)
from sidegate.web.schemas.locks import (
    AcquiredDocument,
    HoldDocument,
    LockPayload,
    ReleasedDocument,
    ReleasePayload,
    RenewPayload,
)
from sidegate.web.schemas.sessions import (
    LogoutPayload,
    MigratePayload,
    NewSessionPayload,
    RefreshPayload,
    RevokePayload,
    RevokeUserPayload,
    TokenPayload,
)

_ITS_ID: Final = {"session_id": "$response.body#/session/id"}
_THE_SAME: Final = {"session_id": "$request.path.session_id"}
_ITS_LEASE: Final = {"lease": "$response.body#/lease"}
_ITS_TOKEN: Final = {"token": "$response.body#/token"}
_WITH_AN_ISSUED_SESSION: Final = (
    Link("showSession", _ITS_ID),
    Link("touchSession", _ITS_ID),
    Link("revokeSession", _ITS_ID),
    Link("migrateSession", _ITS_ID),
    Link("acquireLock", _ITS_ID),
    Link("refreshSession", body=_ITS_TOKEN),
    Link("introspectToken", body=_ITS_TOKEN),
    Link("revokeToken", body=_ITS_TOKEN),
)

_PENDING: Final = ResponseSpec(
    PendingDocument, "The database is away: it holds, and is written down when that is back.", 202
)

TABLE: Final = (
    Route(
        "POST",
        "/v1/sessions",
        Scope.WRITE,
        SessionRoutes.create,
        name="createSession",
        tag="sessions",
        headers=(IDEMPOTENCY_KEY,),
        body=Body(NewSessionPayload),
        answer=ResponseSpec(
            IssuedDocument,
            "It has begun, and is durable.",
            status=201,
            headers={"Location": "Where the session is shown."},
            links=_WITH_AN_ISSUED_SESSION,
        ),
        problems=(
            "invalid_idempotency_key",
            "limit_reached",
            "session_ended",
            "session_exists",
            "idempotency_key_reused",
        ),
    ),
    Route(
        "GET",
        "/v1/sessions",
        Scope.READ,
        ManySessionsRoutes.list_for_provider,
        name="listProviderSessions",
        tag="sessions",
        query=PROVIDER_QUERY,
        answer=ResponseSpec(SessionsDocument, "A page of them, perhaps an empty one."),
    ),
    Route(
        "GET",
        "/v1/sessions/{session_id}",
        Scope.READ,
        SessionRoutes.show,
        name="showSession",
        tag="sessions",
        answer=ResponseSpec(SessionDocument, "The session."),
    ),
    Route(
        "POST",
        "/v1/sessions/{session_id}/revoke",
        Scope.REVOKE,
        SessionRoutes.revoke,
        name="revokeSession",
        tag="sessions",
        body=Body(RevokePayload, required=False),
        answer=ResponseSpec(SessionDocument, "The session, which has ended."),
        also=(_PENDING,),
        problems=("conflict",),
    ),
    Route(
        "POST",
        "/v1/sessions/{session_id}/touch",
        Scope.WRITE,
        SessionRoutes.touch,
        name="touchSession",
        tag="sessions",
        answer=ResponseSpec(SessionDocument, "The session, which was seen now."),
        problems=("session_ended",),
    ),
    Route(
        "POST",
        "/v1/sessions/{session_id}/sso",
        Scope.WRITE,
        RotationRoutes.migrate,
        name="migrateSession",
        tag="sessions",
        body=Body(MigratePayload),
        answer=ResponseSpec(
            IssuedDocument, "Its next token, and the session.", links=_WITH_AN_ISSUED_SESSION
        ),
        problems=("conflict", "limit_reached", "session_ended"),
    ),
    Route(
        "POST",
        "/v1/sessions/{session_id}/lock",
        Scope.WRITE,
        LockRoutes.acquire,
        name="acquireLock",
        tag="locks",
        body=Body(LockPayload, required=False),
        answer=ResponseSpec(
            AcquiredDocument,
            "The lease, the fence and the end.",
            status=201,
            links=(
                Link("renewLock", _THE_SAME, _ITS_LEASE),
                Link("releaseLock", _THE_SAME, _ITS_LEASE),
            ),
        ),
        problems=("locked", "session_ended"),
    ),
    Route(
        "PUT",
        "/v1/sessions/{session_id}/lock",
        Scope.WRITE,
        LockRoutes.renew,
        name="renewLock",
        tag="locks",
        body=Body(RenewPayload),
        answer=ResponseSpec(HoldDocument, "The fence, as it was, and the end."),
        problems=("lock_lost",),
    ),
    Route(
        "DELETE",
        "/v1/sessions/{session_id}/lock",
        Scope.WRITE,
        LockRoutes.release,
        name="releaseLock",
        tag="locks",
        body=Body(ReleasePayload),
        answer=ResponseSpec(ReleasedDocument, "Whether it was held until now."),
    ),
    Route(
        "POST",
        "/v1/refresh",
        Scope.WRITE,
        RotationRoutes.refresh,
        name="refreshSession",
        tag="sessions",
        body=Body(RefreshPayload),
        answer=ResponseSpec(
            IssuedDocument, "Its next token, and the session.", links=_WITH_AN_ISSUED_SESSION
        ),
        problems=("invalid_token", "conflict"),
    ),
    Route(
        "GET",
        "/v1/users/{user_id}/sessions",
        Scope.READ,
        ManySessionsRoutes.list_for_user,
        name="listUserSessions",
        tag="sessions",
        query=PAGE_QUERY,
        answer=ResponseSpec(SessionsDocument, "A page of them, perhaps an empty one."),
    ),
    Route(
        "POST",
        "/v1/users/{user_id}/revoke",
        Scope.REVOKE,
        ManySessionsRoutes.revoke_for_user,
        name="revokeUserSessions",
        tag="sessions",
        body=Body(RevokeUserPayload, required=False),
        answer=ResponseSpec(RevokedDocument, "How many have ended."),
        also=(_PENDING,),
    ),
    Route(
        "POST",
        "/v1/revoke",
        Scope.REVOKE,
        ManySessionsRoutes.revoke_where,
        name="revokeSessions",
        tag="sessions",
        body=Body(RevokeWherePayload),
        answer=ResponseSpec(
            RevokedDocument | WouldRevokeDocument, "How many have ended, or would."
        ),
        also=(_PENDING,),
    ),
    Route(
        "GET",
        "/v1/audit",
        Scope.READ,
        AuditRoutes.list_events,
        name="listEvents",
        tag="audit",
        query=AUDIT_QUERY,
        answer=ResponseSpec(EventsDocument, "A page of them, perhaps an empty one."),
    ),
    Route(
        "GET",
        "/v1/analytics",
        Scope.READ,
        AnalyticsRoutes.show,
        name="showAnalytics",
        tag="analytics",
        answer=ResponseSpec(
            AnalyticsDocument, "The last sample, and what happened in each window."
        ),
        problems=("not_sampled_yet",),
    ),
    Route(
        "POST",
        "/oauth2/introspect",
        Scope.READ,
        OAuth2Routes.introspect,
        name="introspectToken",
        tag="oauth2",
        body=Body(TokenPayload, bodies.FORM),
        answer=ResponseSpec(
            ActiveDocument | InactiveDocument, "Whose it is, or that it is not valid."
        ),
    ),
    Route(
        "POST",
        "/oauth2/revoke",
        Scope.REVOKE,
        OAuth2Routes.revoke,
        name="revokeToken",
        tag="oauth2",
        body=Body(TokenPayload, bodies.FORM),
        answer=ResponseSpec(None, "It opens nothing, or never did."),
        also=(_PENDING,),
        problems=("conflict",),
    ),
    Route(
        "POST",
        LOGOUT,
        None,
        BackchannelLogoutRoute.receive,
        name="logOut",
        tag="providers",
        body=Body(LogoutPayload, bodies.FORM),
        answer=ResponseSpec(None, "None of them lives."),
        also=(
            _PENDING,
            ResponseSpec(LogoutRefusedDocument, "It was not the provider, or not for now.", 400),
        ),
        problems=("not_found", "keys_unavailable", "unauthenticated"),  # the last: nobody listens
        open=True,
    ),
    Route(
        "GET",
        "/openapi.json",
        None,
        DocumentRoutes.show,
        name="showDocument",
        tag="document",
        answer=ResponseSpec(dict, "This document."),
    ),
)
