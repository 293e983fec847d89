-- When the session expired or became idle; null until that is recorded. It is recorded once, so that
-- no end is counted twice.
ALTER TABLE sessions ADD COLUMN timed_out_at timestamptz;

-- Creations and ends not yet in the totals, each written by the statement that caused it. Adding
-- them to the totals deletes them: each is counted once, in any order of commits.
CREATE TABLE analytics_events (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    type text NOT NULL,
    -- created, revoked, expired or idle.
    kind text NOT NULL,
    revoked_by text,
    revoked_reason text,
    -- 1, or -1 to retract an end.
    delta integer NOT NULL,
    -- Microseconds from creation to end; null for a creation.
    duration bigint CHECK (duration >= 0)
);

-- The totals of all events that were added.
CREATE TABLE analytics_counts (
    kind text NOT NULL,
    type text NOT NULL,
    total bigint NOT NULL,
    PRIMARY KEY (kind, type)
);
CREATE TABLE analytics_durations (
    bucket integer PRIMARY KEY,
    total bigint NOT NULL,
    duration_sum bigint NOT NULL
);

-- One row: when an instance last reserved a sample.
CREATE TABLE analytics_sampling (reserved_at timestamptz NOT NULL);
INSERT INTO analytics_sampling VALUES ('1970-01-01 00:00:00+00');

CREATE TABLE analytics_samples (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL,
    active bigint NOT NULL,
    users bigint NOT NULL,
    -- The active sessions by type; the totals above at that time.
    by_type json NOT NULL,
    totals json NOT NULL
);

-- Covering index for the search for the peak.
CREATE INDEX analytics_samples_by_time ON analytics_samples (at, active);

CREATE FUNCTION sidegate_times_out_at(session sessions) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT least(
        session.expires_at,
        session.last_seen_at + session.idle_timeout * interval '1 microsecond'
    )
$$;

CREATE FUNCTION sidegate_count_end(session sessions, delta integer)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    ended_at timestamptz := coalesce(
        session.revoked_at, session.timed_out_at, sidegate_times_out_at(session)
    );
BEGIN
    INSERT INTO analytics_events (type, kind, revoked_by, revoked_reason, delta, duration) VALUES (
        session.type,
        CASE
            WHEN session.revoked_at IS NOT NULL THEN 'revoked'
            WHEN ended_at < session.expires_at THEN 'idle'
            ELSE 'expired'
        END,
        session.revoked_by, session.revoked_reason, delta,
        greatest(0, extract(epoch FROM ended_at - session.created_at) * 1000000)
    );
END $$;

CREATE FUNCTION sidegate_count_created() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO analytics_events (type, kind, delta) VALUES (new.type, 'created', 1);
    IF new.revoked_at IS NOT NULL THEN
        PERFORM sidegate_count_end(new, 1);
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION sidegate_count_ended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM sidegate_count_end(new, 1);
    RETURN NULL;
END $$;

CREATE FUNCTION sidegate_count_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM sidegate_count_end(old, 1);
    RETURN NULL;
END $$;

CREATE FUNCTION sidegate_retract_timeout() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM sidegate_count_end(old, -1);
    UPDATE sessions SET timed_out_at = NULL WHERE id = new.id;
    RETURN NULL;
END $$;

CREATE TRIGGER count_session_created AFTER INSERT ON sessions
FOR EACH ROW EXECUTE FUNCTION sidegate_count_created();

-- A session that was recorded as timed out has been counted already.
CREATE TRIGGER count_session_revoked AFTER UPDATE OF revoked_at ON sessions FOR EACH ROW
WHEN (old.revoked_at IS NULL AND new.revoked_at IS NOT NULL AND old.timed_out_at IS NULL)
EXECUTE FUNCTION sidegate_count_ended();

CREATE TRIGGER count_session_timed_out AFTER UPDATE OF timed_out_at ON sessions FOR EACH ROW
WHEN (old.timed_out_at IS NULL AND new.timed_out_at IS NOT NULL)
EXECUTE FUNCTION sidegate_count_ended();

-- A session that is deleted before its end was recorded.
CREATE TRIGGER count_session_deleted AFTER DELETE ON sessions FOR EACH ROW
WHEN (old.revoked_at IS NULL AND old.timed_out_at IS NULL)
EXECUTE FUNCTION sidegate_count_deleted();

-- A late touch or extension shows that the session had not timed out.
CREATE TRIGGER retract_session_timeout AFTER UPDATE OF last_seen_at, expires_at ON sessions FOR EACH ROW
WHEN (
    old.timed_out_at IS NOT NULL AND new.revoked_at IS NULL
    AND (new.last_seen_at > old.last_seen_at OR new.expires_at > old.expires_at)
)
EXECUTE FUNCTION sidegate_retract_timeout();
