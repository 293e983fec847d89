-- A tenant is a label of the caller's: limits count its sessions apart, conditions select them.
ALTER TABLE sessions ADD COLUMN tenant text COLLATE "C";

-- The client's address as sortable digits (core/client_ip.py), so that a network is one stretch.
ALTER TABLE sessions ADD COLUMN ip_key text COLLATE "C";

-- The user as the provider calls them; its log-out may name them instead of a session.
ALTER TABLE sessions ADD COLUMN provider_subject text;
CREATE INDEX sessions_of_provider ON sessions (provider, provider_session_id)
WHERE provider IS NOT NULL;
CREATE INDEX sessions_of_subject ON sessions (provider, provider_subject)
WHERE provider_subject IS NOT NULL;

-- The last change: when, by whom, and from which address; null in rows of before.
ALTER TABLE sessions
ADD COLUMN changed_at timestamptz, ADD COLUMN changed_by text, ADD COLUMN changed_from text;

-- As in 0003, but tenants are counted apart, and one that exists already may join the living: with
-- `joining`, nobody ends for it unless it still is version `expected`. The other one stays, for
-- servers of the last version that still run.
CREATE FUNCTION sidegate_make_room(
    of_user text, of_type text, of_tenant text, most bigint, at_limit text,
    moment timestamptz, by_whom text, why text, joining uuid, expected bigint
) RETURNS SETOF sessions LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(of_type || ' ' || of_user, 0));
    IF joining IS NOT NULL THEN
        PERFORM FROM sessions WHERE id = joining AND version = expected FOR UPDATE;
        IF NOT FOUND THEN
            RETURN;
        END IF;
    END IF;
    IF at_limit = 'refuse' THEN
        PERFORM FROM sessions
        WHERE user_id = of_user AND type = of_type AND tenant IS NOT DISTINCT FROM of_tenant
            AND id IS DISTINCT FROM joining AND revoked_at IS NULL AND expires_at > moment
            AND (idle_timeout IS NULL
                OR last_seen_at + idle_timeout * interval '1 microsecond' > moment)
        OFFSET most - 1 LIMIT 1;
        IF FOUND THEN
            RETURN NEXT NULL::sessions;
            RETURN;
        END IF;
    END IF;
    -- The last conditions are said twice: others, who change a session without the lock, may have
    -- ended it or made it one of another type since the surplus was looked up.
    RETURN QUERY WITH surplus AS MATERIALIZED (
        SELECT id FROM sessions
        WHERE user_id = of_user AND type = of_type AND tenant IS NOT DISTINCT FROM of_tenant
            AND id IS DISTINCT FROM joining AND revoked_at IS NULL AND expires_at > moment
        ORDER BY (idle_timeout IS NULL
                OR last_seen_at + idle_timeout * interval '1 microsecond' > moment) DESC,
            CASE at_limit WHEN 'evict_idle_longest' THEN last_seen_at END DESC,
            created_at DESC, id DESC
        OFFSET most - 1
    )
    UPDATE sessions SET revoked_at = moment, revoked_by = by_whom, revoked_reason = why,
        changed_at = moment, changed_by = by_whom, changed_from = NULL,
        version = version + 1, changed_xid = pg_current_xact_id()
    FROM surplus
    WHERE sessions.id = surplus.id AND sessions.type = of_type AND sessions.revoked_at IS NULL
    RETURNING sessions.*;
END $$;
