-- The time of a change, and what makes its commit durable. Servers of the previous version run on
-- this schema, too.

-- The database's clock. Tests replace the function in their own database.
CREATE FUNCTION sidegate_now() RETURNS timestamptz LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN clock_timestamp();
END $$;

-- The time of a change that was asked for at `p_asked_at`: now, when the statement has its locks,
-- and never before it was judged. The caller's clock follows this one within 50 ms.
CREATE FUNCTION sidegate_change_time(p_asked_at timestamptz) RETURNS timestamptz
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN greatest(p_asked_at, sidegate_now());
END $$;

-- A commit is acknowledged when it is on disk, whatever the defaults of the role are. The setting
-- holds until the transaction ends. A stronger one is left alone: remote_apply.
CREATE FUNCTION sidegate_commit_durably() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('synchronous_commit') IN ('off', 'local', 'remote_write') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    RETURN NULL;
END $$;

-- Not for touches, which change no version: the last second of activity may be lost.
CREATE TRIGGER commit_session_change AFTER INSERT OR UPDATE OF version ON sessions
FOR EACH STATEMENT EXECUTE FUNCTION sidegate_commit_durably();
CREATE TRIGGER commit_session_lock AFTER INSERT OR UPDATE ON session_locks
FOR EACH STATEMENT EXECUTE FUNCTION sidegate_commit_durably();
CREATE TRIGGER commit_logout_token AFTER INSERT ON processed_logout_tokens
FOR EACH STATEMENT EXECUTE FUNCTION sidegate_commit_durably();
CREATE TRIGGER commit_cache_mark AFTER INSERT ON cache_marks
FOR EACH STATEMENT EXECUTE FUNCTION sidegate_commit_durably();

-- Whether the current token was presented since a rotation issued it. Until then its predecessor
-- gets it again, and after that the predecessor's reuse indicates theft.
ALTER TABLE sessions ADD COLUMN token_seen boolean NOT NULL DEFAULT true;

-- As in 0006, but the time is read when the locks are held.
CREATE OR REPLACE FUNCTION sidegate_enforce_limit(
    p_user_id text, p_type text, p_tenant text, p_max_sessions bigint, p_at_limit text,
    p_at timestamptz, p_revoked_by text, p_reason text, p_session_id uuid, p_expected bigint
) RETURNS SETOF sessions LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(p_type || ' ' || p_user_id, 0));
    IF p_session_id IS NOT NULL THEN
        PERFORM FROM sessions WHERE id = p_session_id AND version = p_expected FOR UPDATE;
        IF NOT FOUND THEN
            RETURN;
        END IF;
    END IF;
    p_at := sidegate_change_time(p_at);
    IF p_at_limit = 'refuse' THEN
        PERFORM FROM sessions
        WHERE user_id = p_user_id AND type = p_type AND tenant IS NOT DISTINCT FROM p_tenant
            AND id IS DISTINCT FROM p_session_id AND revoked_at IS NULL AND expires_at > p_at
            AND (idle_timeout IS NULL
                OR last_seen_at + idle_timeout * interval '1 microsecond' > p_at)
        OFFSET p_max_sessions - 1 LIMIT 1;
        IF FOUND THEN
            RETURN NEXT NULL::sessions;
            RETURN;
        END IF;
    END IF;
    -- Type and revocation are checked twice: changes of a session without the lock may have revoked
    -- it or changed its type since the surplus was selected.
    RETURN QUERY WITH surplus AS MATERIALIZED (
        SELECT id FROM sessions
        WHERE user_id = p_user_id AND type = p_type AND tenant IS NOT DISTINCT FROM p_tenant
            AND id IS DISTINCT FROM p_session_id AND revoked_at IS NULL AND expires_at > p_at
        ORDER BY (idle_timeout IS NULL
                OR last_seen_at + idle_timeout * interval '1 microsecond' > p_at) DESC,
            CASE p_at_limit WHEN 'evict_idle_longest' THEN last_seen_at END DESC,
            created_at DESC, id DESC
        OFFSET p_max_sessions - 1
    ),
    -- Locked before the time is read. Another transaction that locks several has this lock, too.
    locked AS MATERIALIZED (
        SELECT sessions.id FROM sessions JOIN surplus ON surplus.id = sessions.id
        WHERE sessions.type = p_type AND sessions.revoked_at IS NULL
        ORDER BY sessions.id FOR UPDATE OF sessions
    ),
    timed AS MATERIALIZED (SELECT locked.id, sidegate_change_time(p_at) AS changed_at FROM locked)
    UPDATE sessions SET revoked_at = timed.changed_at, revoked_by = p_revoked_by,
        revoked_reason = p_reason, changed_at = timed.changed_at, changed_by = p_revoked_by,
        changed_from = NULL, version = version + 1, changed_xid = pg_current_xact_id()
    FROM timed WHERE sessions.id = timed.id
    RETURNING sessions.*;
END $$;

-- As in 0007, but a migration of an SSO session is one, too: a rotation without a nonce.
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
            WHEN new.digest <> old.digest AND new.rotation_nonce IS NULL THEN 'migrate'
            ELSE 'refresh'
        END,
        new.id, new.version, new.user_id, new.type, new.tenant, new.changed_by, new.changed_from,
        new.revoked_reason
    );
    RETURN NULL;
END $$;

-- As in 0012, with the database's clock from its one function.
CREATE OR REPLACE FUNCTION sidegate_rotated_digests(p_session_id uuid, p_previous_digest bytea)
RETURNS bytea[] LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN ARRAY(
        SELECT digest FROM rotated_digests
        WHERE session_id = p_session_id AND digest IS DISTINCT FROM p_previous_digest
            AND valid_until > (SELECT sidegate_now()) - interval '10 seconds'
    );
END $$;
ALTER TABLE cache_marks ALTER COLUMN at SET DEFAULT sidegate_now();
