"""The route table of the admin API."""

from typing import Final

from sidegate.web.admin.analytics import AnalyticsRoutes
from sidegate.web.admin.audit import AUDIT_QUERY, AuditRoutes
from sidegate.web.admin.auth import Scope
from sidegate.web.admin.bulk import LIST_QUERY, PAGE_QUERY, BulkRoutes
from sidegate.web.admin.idempotency_key import IDEMPOTENCY_KEY
from sidegate.web.admin.locks import LockRoutes
from sidegate.web.admin.logout import LOGOUT_PATH, BackchannelLogoutRoutes
from sidegate.web.admin.oauth2 import OAuth2Routes
from sidegate.web.admin.openapi_route import OpenApiRoutes
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
    ReauthenticatedPayload,
    RefreshPayload,
    RevokePayload,
    RevokeUserPayload,
    TokenPayload,
    UpdatePayload,
)

_FROM_SESSION_ID: Final = {"session_id": "$response.body#/session/id"}
_FROM_PATH: Final = {"session_id": "$request.path.session_id"}
_ISSUED_SESSION_LINKS: Final = (
    Link("showSession", _FROM_SESSION_ID),
    Link("touchSession", _FROM_SESSION_ID),
    Link("revokeSession", _FROM_SESSION_ID),
    Link("updateSession", _FROM_SESSION_ID),
    Link("reauthenticateSession", _FROM_SESSION_ID),
    Link("migrateSession", _FROM_SESSION_ID),
    Link("acquireLock", _FROM_SESSION_ID),
)

_PENDING: Final = ResponseSpec(
    PendingDocument,
    "The database is unavailable. The revocation is in effect, and is persisted later.",
    202,
)

ROUTES: Final = (
    Route(
        "POST",
        "/v1/sessions",
        Scope.WRITE,
        SessionRoutes.create,
        operation_id="createSession",
        tag="sessions",
        headers=(IDEMPOTENCY_KEY,),
        body=Body(NewSessionPayload),
        response=ResponseSpec(
            IssuedDocument,
            "The session was created and persisted.",
            status=201,
            headers={"Location": "The path of the session."},
            links=_ISSUED_SESSION_LINKS,
        ),
        problems=(
            "identity_too_large",
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
        BulkRoutes.list_all,
        operation_id="listSessions",
        tag="sessions",
        query=LIST_QUERY,
        response=ResponseSpec(SessionsDocument, "A page, possibly empty."),
    ),
    Route(
        "GET",
        "/v1/sessions/{session_id}",
        Scope.READ,
        SessionRoutes.show,
        operation_id="showSession",
        tag="sessions",
        response=ResponseSpec(SessionDocument, "The session."),
    ),
    Route(
        "PATCH",
        "/v1/sessions/{session_id}",
        Scope.WRITE,
        SessionRoutes.update,
        operation_id="updateSession",
        tag="sessions",
        body=Body(UpdatePayload),
        response=ResponseSpec(SessionDocument, "The session as it is now."),
        problems=("identity_too_large", "conflict", "session_ended"),
    ),
    Route(
        "POST",
        "/v1/sessions/{session_id}/reauthenticated",
        Scope.WRITE,
        RotationRoutes.reauthenticate,
        operation_id="reauthenticateSession",
        tag="sessions",
        body=Body(ReauthenticatedPayload, required=False),
        response=ResponseSpec(
            IssuedDocument, "The session and its new token.", links=_ISSUED_SESSION_LINKS
        ),
        problems=("identity_too_large", "conflict", "session_ended"),
    ),
    Route(
        "POST",
        "/v1/sessions/{session_id}/revoke",
        Scope.REVOKE,
        SessionRoutes.revoke,
        operation_id="revokeSession",
        tag="sessions",
        body=Body(RevokePayload, required=False),
        response=ResponseSpec(SessionDocument, "The session, which has ended."),
        other_responses=(_PENDING,),
        problems=("conflict",),
    ),
    Route(
        "POST",
        "/v1/sessions/{session_id}/touch",
        Scope.WRITE,
        SessionRoutes.touch,
        operation_id="touchSession",
        tag="sessions",
        response=ResponseSpec(SessionDocument, "The session with its new activity."),
        problems=("session_ended",),
    ),
    Route(
        "POST",
        "/v1/sessions/{session_id}/sso",
        Scope.WRITE,
        RotationRoutes.migrate,
        operation_id="migrateSession",
        tag="sessions",
        body=Body(MigratePayload),
        response=ResponseSpec(
            IssuedDocument, "The session and its new token.", links=_ISSUED_SESSION_LINKS
        ),
        problems=("identity_too_large", "conflict", "limit_reached", "session_ended"),
    ),
    Route(
        "POST",
        "/v1/sessions/{session_id}/lock",
        Scope.WRITE,
        LockRoutes.acquire,
        operation_id="acquireLock",
        tag="locks",
        body=Body(LockPayload, required=False),
        response=ResponseSpec(
            AcquiredDocument,
            "The lock is acquired.",
            status=201,
            links=(
                Link("renewLock", _FROM_PATH),
                Link("releaseLock", _FROM_PATH),
            ),
        ),
        problems=("locked", "session_ended"),
    ),
    Route(
        "PUT",
        "/v1/sessions/{session_id}/lock",
        Scope.WRITE,
        LockRoutes.renew,
        operation_id="renewLock",
        tag="locks",
        body=Body(RenewPayload),
        response=ResponseSpec(HoldDocument, "The lock is renewed."),
        problems=("lock_lost",),
    ),
    Route(
        "DELETE",
        "/v1/sessions/{session_id}/lock",
        Scope.WRITE,
        LockRoutes.release,
        operation_id="releaseLock",
        tag="locks",
        body=Body(ReleasePayload),
        response=ResponseSpec(ReleasedDocument, "Whether the lease held the lock."),
    ),
    Route(
        "POST",
        "/v1/refresh",
        Scope.WRITE,
        RotationRoutes.refresh,
        operation_id="refreshSession",
        tag="sessions",
        body=Body(RefreshPayload),
        response=ResponseSpec(
            IssuedDocument, "The session and its new token.", links=_ISSUED_SESSION_LINKS
        ),
        problems=("invalid_token", "identity_too_large", "conflict"),
    ),
    Route(
        "GET",
        "/v1/users/{user_id}/sessions",
        Scope.READ,
        BulkRoutes.list_for_user,
        operation_id="listUserSessions",
        tag="sessions",
        query=PAGE_QUERY,
        response=ResponseSpec(SessionsDocument, "A page, possibly empty."),
    ),
    Route(
        "POST",
        "/v1/users/{user_id}/revoke",
        Scope.REVOKE,
        BulkRoutes.revoke_for_user,
        operation_id="revokeUserSessions",
        tag="sessions",
        body=Body(RevokeUserPayload, required=False),
        response=ResponseSpec(RevokedDocument, "The number of revoked sessions."),
        other_responses=(_PENDING,),
    ),
    Route(
        "POST",
        "/v1/revoke",
        Scope.REVOKE,
        BulkRoutes.revoke_where,
        operation_id="revokeSessions",
        tag="sessions",
        body=Body(RevokeWherePayload),
        response=ResponseSpec(
            RevokedDocument | WouldRevokeDocument,
            "The number of revoked sessions, or of those a dry run found.",
        ),
        other_responses=(_PENDING,),
    ),
    Route(
        "GET",
        "/v1/audit",
        Scope.READ,
        AuditRoutes.list_events,
        operation_id="listEvents",
        tag="audit",
        query=AUDIT_QUERY,
        response=ResponseSpec(EventsDocument, "A page, possibly empty."),
    ),
    Route(
        "GET",
        "/v1/analytics",
        Scope.READ,
        AnalyticsRoutes.show,
        operation_id="showAnalytics",
        tag="analytics",
        response=ResponseSpec(
            AnalyticsDocument, "The last sample, and the statistics of each window."
        ),
        problems=("analytics_not_ready",),
    ),
    Route(
        "POST",
        "/oauth2/introspect",
        Scope.READ,
        OAuth2Routes.introspect,
        operation_id="introspectToken",
        tag="oauth2",
        body=Body(TokenPayload, bodies.FORM_MEDIA_TYPE),
        response=ResponseSpec(
            ActiveDocument | InactiveDocument,
            "The session of the token, or that the token is not valid.",
        ),
    ),
    Route(
        "POST",
        "/oauth2/revoke",
        Scope.REVOKE,
        OAuth2Routes.revoke,
        operation_id="revokeToken",
        tag="oauth2",
        body=Body(TokenPayload, bodies.FORM_MEDIA_TYPE),
        response=ResponseSpec(None, "The token is not valid any more, or never was."),
        other_responses=(_PENDING,),
        problems=("conflict",),
    ),
    Route(
        "POST",
        LOGOUT_PATH,
        None,
        BackchannelLogoutRoutes.receive,
        operation_id="logOut",
        tag="providers",
        body=Body(LogoutPayload, bodies.FORM_MEDIA_TYPE),
        response=ResponseSpec(None, "No session named by the token is active."),
        other_responses=(
            _PENDING,
            ResponseSpec(
                LogoutRefusedDocument,
                "The logout token is not valid, or was processed before.",
                400,
            ),
        ),
        problems=(
            "not_found",
            "keys_unavailable",
            "unauthenticated",
        ),  # the last: no provider is configured
        public=True,
    ),
    Route(
        "GET",
        "/openapi.json",
        None,
        OpenApiRoutes.show,
        operation_id="showDocument",
        tag="document",
        response=ResponseSpec(dict, "This document."),
    ),
)
