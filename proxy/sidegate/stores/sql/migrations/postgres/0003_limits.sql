-- The sessions of one user and type that may be active; the others are not read.
CREATE INDEX sessions_unrevoked_by_user ON sessions (user_id, type, expires_at)
WHERE revoked_at IS NULL;

-- Enforces the limit for one more active session, and returns the sessions it revoked. Returns one
-- row of nulls if the limit is reached and no session is to be evicted. Holds until the transaction
-- ends.
--
-- A session that looks idle does not count, but is revoked if it does not fit beside the active
-- ones: a late touch may prove it active, and would exceed the limit.
--
-- A function, because each of its statements sees what was committed before that statement began:
-- after waiting for the lock it counts what the last holder created. A part of a single statement
-- would not.
CREATE FUNCTION sidegate_enforce_limit(
    p_user_id text, p_type text, p_max_sessions bigint, p_at_limit text,
    p_at timestamptz, p_revoked_by text, p_reason text
) RETURNS SETOF sessions LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(p_type || ' ' || p_user_id, 0));
    IF p_at_limit = 'refuse' THEN
        PERFORM FROM sessions
        WHERE user_id = p_user_id AND type = p_type AND revoked_at IS NULL AND expires_at > p_at
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
        WHERE user_id = p_user_id AND type = p_type AND revoked_at IS NULL AND expires_at > p_at
        ORDER BY (idle_timeout IS NULL
                OR last_seen_at + idle_timeout * interval '1 microsecond' > p_at) DESC,
            CASE p_at_limit WHEN 'evict_idle_longest' THEN last_seen_at END DESC,
            created_at DESC, id DESC
        OFFSET p_max_sessions - 1
    )
    UPDATE sessions SET revoked_at = p_at, revoked_by = p_revoked_by, revoked_reason = p_reason,
        version = version + 1, changed_xid = pg_current_xact_id()
    FROM surplus
    WHERE sessions.id = surplus.id AND sessions.type = p_type AND sessions.revoked_at IS NULL
    RETURNING sessions.*;
END $$;

-- A keyed hash of the Idempotency-Key: only the owner of the API key can compute it.
ALTER TABLE sessions ADD COLUMN idempotency_key_hash bytea UNIQUE
CHECK (octet_length(idempotency_key_hash) = 32);
