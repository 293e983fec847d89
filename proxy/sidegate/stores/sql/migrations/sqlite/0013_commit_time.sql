-- Whether the current token was presented since a rotation issued it. Until then its predecessor
-- gets it again, and after that the predecessor's reuse indicates theft.
ALTER TABLE sessions ADD COLUMN token_seen INTEGER NOT NULL DEFAULT 1;

-- As in 0007, but a migration of an SSO session is one, too: a rotation without a nonce.
DROP TRIGGER audit_session_changed;
CREATE TRIGGER audit_session_changed AFTER UPDATE OF version ON sessions
BEGIN
    INSERT INTO audit_events (
        at, action, session_id, version, user_id, type, tenant, actor, source, reason
    ) VALUES (
        coalesce(new.changed_at, new.last_seen_at),
        CASE
            WHEN new.revoked_at IS NOT NULL THEN 'revoke'
            WHEN new.type <> old.type THEN 'migrate'
            WHEN new.digest <> old.digest AND new.rotation_nonce IS NULL THEN 'migrate'
            ELSE 'refresh'
        END,
        new.id, new.version, new.user_id, new.type, new.tenant, new.changed_by, new.changed_from,
        new.revoked_reason
    );
END;
