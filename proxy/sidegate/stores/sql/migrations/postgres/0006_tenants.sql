-- A label chosen by the caller: limits count each tenant separately, conditions select by it.
ALTER TABLE sessions ADD COLUMN tenant text COLLATE "C";

-- The client's address as sortable digits (core/client_ip.py): a network is one range.
ALTER TABLE sessions ADD COLUMN ip_key text COLLATE "C";

-- The subject at the provider; a logout token may name it instead of a session.
ALTER TABLE sessions ADD COLUMN provider_subject text;
CREATE INDEX sessions_by_provider ON sessions (provider, provider_session_id)
WHERE provider IS NOT NULL;
CREATE INDEX sessions_by_subject ON sessions (provider, provider_subject)
WHERE provider_subject IS NOT NULL;

-- The last change: time, actor and source address; null in rows written before this migration.
ALTER TABLE sessions
ADD COLUMN changed_at timestamptz, ADD COLUMN changed_by text, ADD COLUMN changed_from text;

-- As in 0003, but tenants are counted separately, and an existing session may become one more of its
-- type: with `p_session_id` no session is evicted unless that one still has version `p_expected`.
-- The function of 0003 stays for servers of the previous version that still run.
CREATE FUNCTION sidegate_enforce_limit(
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
    )
    UPDATE sessions SET revoked_at = p_at, revoked_by = p_revoked_by, revoked_reason = p_reason,
        changed_at = p_at, changed_by = p_revoked_by, changed_from = NULL,
        version = version + 1, changed_xid = pg_current_xact_id()
    FROM surplus
    WHERE sessions.id = surplus.id AND sessions.type = p_type AND sessions.revoked_at IS NULL
    RETURNING sessions.*;
END $$;
