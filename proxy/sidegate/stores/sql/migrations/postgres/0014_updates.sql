-- The list of all sessions, newest first.
CREATE INDEX sessions_by_creation ON sessions (created_at DESC, id DESC);

-- As in 0013, and with the changes that keep the token or replace it after another authentication.
CREATE OR REPLACE FUNCTION sidegate_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit_events (
        at, action, session_id, version, user_id, type, tenant, actor, source, reason
    ) VALUES (
        coalesce(new.changed_at, sidegate_now()),
        CASE
            WHEN TG_OP = 'INSERT' THEN 'create'
            WHEN new.revoked_at IS NOT NULL THEN 'revoke'
            WHEN new.type <> old.type THEN 'migrate'
            WHEN new.authenticated_at <> old.authenticated_at THEN 'reauthenticate'
            WHEN new.digest <> old.digest AND new.rotation_nonce IS NULL THEN 'migrate'
            WHEN new.digest = old.digest THEN 'update'
            ELSE 'refresh'
        END,
        new.id, new.version, new.user_id, new.type, new.tenant, new.changed_by, new.changed_from,
        new.revoked_reason
    );
    RETURN NULL;
END $$;
