-- One event for each change of a session, written by the statement that changes it.
CREATE TABLE audit_events (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    action TEXT NOT NULL,
    session_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    user_id TEXT NOT NULL,
    type TEXT NOT NULL,
    tenant TEXT,
    actor TEXT,
    source TEXT,
    reason TEXT,
    -- Its position in the hash chain and its hash (core/audit.py); null until it is sealed.
    link INTEGER UNIQUE CHECK (link > 0),
    hash BLOB CHECK (length(hash) = 32),
    CHECK ((link IS NULL) = (hash IS NULL))
) STRICT;

CREATE INDEX audit_events_by_session ON audit_events (session_id, number);
CREATE INDEX audit_events_by_user ON audit_events (user_id, number);
CREATE INDEX audit_events_by_time ON audit_events (at);
CREATE INDEX audit_events_unsealed ON audit_events (number) WHERE link IS NULL;

-- One row: the seal of the last deleted event, which the oldest remaining event is chained to.
CREATE TABLE audit_anchor (link INTEGER NOT NULL, hash BLOB NOT NULL) STRICT;
INSERT INTO audit_anchor VALUES (0, zeroblob(32));

CREATE TRIGGER audit_session_created AFTER INSERT ON sessions
BEGIN
    INSERT INTO audit_events (
        at, action, session_id, version, user_id, type, tenant, actor, source, reason
    ) VALUES (
        coalesce(new.changed_at, new.created_at), 'create', new.id, new.version, new.user_id,
        new.type, new.tenant, new.changed_by, new.changed_from, new.revoked_reason
    );
END;

CREATE TRIGGER audit_session_changed AFTER UPDATE OF version ON sessions
BEGIN
    INSERT INTO audit_events (
        at, action, session_id, version, user_id, type, tenant, actor, source, reason
    ) VALUES (
        coalesce(new.changed_at, new.last_seen_at),
        CASE
            WHEN new.revoked_at IS NOT NULL THEN 'revoke'
            WHEN new.type <> old.type THEN 'migrate'
            ELSE 'refresh'
        END,
        new.id, new.version, new.user_id, new.type, new.tenant, new.changed_by, new.changed_from,
        new.revoked_reason
    );
END;

CREATE TRIGGER reject_audit_event_update BEFORE UPDATE ON audit_events
WHEN old.link IS NOT NULL
    OR (old.number, old.at, old.action, old.session_id, old.version, old.user_id, old.type)
        IS NOT
        (new.number, new.at, new.action, new.session_id, new.version, new.user_id, new.type)
    OR (old.tenant, old.actor, old.source, old.reason)
        IS NOT (new.tenant, new.actor, new.source, new.reason)
BEGIN
    SELECT RAISE(ABORT, 'audit events are immutable');
END;
