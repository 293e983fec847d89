-- What may still live, of one user and type: the rest of a user's sessions are not looked at.
CREATE INDEX sessions_living_of_user ON sessions (user_id, type, expires_at) WHERE revoked_at IS NULL;

-- Makes room for one more living session, and returns those that had to end for it; a row of nulls
-- says that none was to end and there is no room. It is certain until the transaction ends.
--
-- One that looks idle takes no room, but what does not fit beside the living ends for good: it may
-- have been seen, and a touch that comes late would make it one too many.
--
-- A function, because each of its statements sees what was committed before that statement began:
-- whoever has waited for the lock counts what its last holder created. A part of one statement
-- would not.
CREATE FUNCTION sidegate_make_room(
    of_user text, of_type text, most bigint, at_limit text,
    moment timestamptz, by_whom text, why text
) RETURNS SETOF sessions LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(of_type || ' ' || of_user, 0));
    IF at_limit = 'refuse' THEN
        PERFORM FROM sessions
        WHERE user_id = of_user AND type = of_type AND revoked_at IS NULL AND expires_at > moment
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
        WHERE user_id = of_user AND type = of_type AND revoked_at IS NULL AND expires_at > moment
        ORDER BY (idle_timeout IS NULL
                OR last_seen_at + idle_timeout * interval '1 microsecond' > moment) DESC,
            CASE at_limit WHEN 'evict_idle_longest' THEN last_seen_at END DESC,
            created_at DESC, id DESC
        OFFSET most - 1
    )
    UPDATE sessions SET revoked_at = moment, revoked_by = by_whom, revoked_reason = why,
        version = version + 1, changed_xid = pg_current_xact_id()
    FROM surplus
    WHERE sessions.id = surplus.id AND sessions.type = of_type AND sessions.revoked_at IS NULL
    RETURNING sessions.*;
END $$;

-- What an Idempotency-Key claims: a hash of it that only the API key it came with can make.
ALTER TABLE sessions ADD COLUMN claim bytea UNIQUE CHECK (octet_length(claim) = 32);
