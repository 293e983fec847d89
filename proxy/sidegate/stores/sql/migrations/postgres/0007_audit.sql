-- One event for each change of a session, written by the statement that changes it.
CREATE TABLE audit_events (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL,
    action text NOT NULL,
    session_id uuid NOT NULL,
    version bigint NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    type text NOT NULL,
    tenant text COLLATE "C",
    actor text COLLATE "C",
    source text,
    reason text,
    -- Its position in the hash chain and its hash (core/audit.py); null until it is sealed.
    link bigint UNIQUE CHECK (link > 0),
    hash bytea CHECK (octet_length(hash) = 32),
    CHECK ((link IS NULL) = (hash IS NULL))
);

CREATE INDEX audit_events_by_session ON audit_events (session_id, number);
CREATE INDEX audit_events_by_user ON audit_events (user_id, number);
CREATE INDEX audit_events_by_time ON audit_events (at);
CREATE INDEX audit_events_unsealed ON audit_events (number) WHERE link IS NULL;

-- One row: the seal of the last deleted event, which the oldest remaining event is chained to.
CREATE TABLE audit_anchor (link bigint NOT NULL, hash bytea NOT NULL);
INSERT INTO audit_anchor VALUES (0, decode(repeat('00', 32), 'hex'));

CREATE FUNCTION sidegate_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit_events (
        at, action, session_id, version, user_id, type, tenant, actor, source, reason
    ) VALUES (
        coalesce(new.changed_at, now()),
        CASE
            WHEN TG_OP = 'INSERT' THEN 'create'
            WHEN new.revoked_at IS NOT NULL THEN 'revoke'
            WHEN new.type <> old.type THEN 'migrate'
            ELSE 'refresh'
        END,
        new.id, new.version, new.user_id, new.type, new.tenant, new.changed_by, new.changed_from,
        new.revoked_reason
    );
    RETURN NULL;
END $$;

CREATE TRIGGER audit_session_change AFTER INSERT OR UPDATE OF version ON sessions
FOR EACH ROW EXECUTE FUNCTION sidegate_audit_change();

CREATE FUNCTION sidegate_reject_audit_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit events are immutable' USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE TRIGGER reject_audit_event_update BEFORE UPDATE ON audit_events FOR EACH ROW
WHEN (
    old.link IS NOT NULL
    OR (old.number, old.at, old.action, old.session_id, old.version, old.user_id, old.type)
        IS DISTINCT FROM
        (new.number, new.at, new.action, new.session_id, new.version, new.user_id, new.type)
    OR (old.tenant, old.actor, old.source, old.reason)
        IS DISTINCT FROM (new.tenant, new.actor, new.source, new.reason)
)
EXECUTE FUNCTION sidegate_reject_audit_update();
