-- When it ended by itself, noted by whoever counts ends; null until then. Noted once, so that no end
-- is counted twice.
ALTER TABLE sessions ADD COLUMN ran_out_at timestamptz;

-- Beginnings and ends that are not added up yet, each written by the statement that made it so.
-- Adding them up deletes them: in whatever order they are committed, each is counted once.
CREATE TABLE analytics_uncounted (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    type text NOT NULL,
    -- created, revoked, expired or idle.
    what text NOT NULL,
    revoked_by text,
    revoked_reason text,
    -- 1, or -1 where an end is taken back.
    times integer NOT NULL,
    -- Microseconds from the beginning to the end; null of a beginning.
    lasted bigint CHECK (lasted >= 0)
);

-- All that has been added up.
CREATE TABLE analytics_counts (
    what text NOT NULL,
    type text NOT NULL,
    times bigint NOT NULL,
    PRIMARY KEY (what, type)
);
CREATE TABLE analytics_durations (
    bucket integer PRIMARY KEY,
    times bigint NOT NULL,
    lasted bigint NOT NULL
);

-- One row: when an instance last took it upon itself to take a sample.
CREATE TABLE analytics_turn (taken_at timestamptz NOT NULL);
INSERT INTO analytics_turn VALUES ('1970-01-01 00:00:00+00');

CREATE TABLE analytics_samples (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL,
    active bigint NOT NULL,
    users bigint NOT NULL,
    -- How many of each type are active; the totals above as they were.
    by_type json NOT NULL,
    totals json NOT NULL
);

-- With what a search for the peak needs, so that it reads no more than this.
CREATE INDEX analytics_samples_by_time ON analytics_samples (at, active);

CREATE FUNCTION sidegate_runs_out_at(session sessions) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT least(
        session.expires_at,
        session.last_seen_at + session.idle_timeout * interval '1 microsecond'
    )
$$;

CREATE FUNCTION sidegate_count_end(session sessions, counted integer)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    ended_at timestamptz := coalesce(
        session.revoked_at, session.ran_out_at, sidegate_runs_out_at(session)
    );
BEGIN
    INSERT INTO analytics_uncounted (type, what, revoked_by, revoked_reason, times, lasted) VALUES (
        session.type,
        CASE
            WHEN session.revoked_at IS NOT NULL THEN 'revoked'
            WHEN ended_at < session.expires_at THEN 'idle'
            ELSE 'expired'
        END,
        session.revoked_by, session.revoked_reason, counted,
        greatest(0, extract(epoch FROM ended_at - session.created_at) * 1000000)
    );
END $$;

CREATE FUNCTION sidegate_count_beginning() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO analytics_uncounted (type, what, times) VALUES (new.type, 'created', 1);
    IF new.revoked_at IS NOT NULL THEN
        PERFORM sidegate_count_end(new, 1);
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION sidegate_count_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM sidegate_count_end(new, 1);
    RETURN NULL;
END $$;

CREATE FUNCTION sidegate_count_deletion() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM sidegate_count_end(old, 1);
    RETURN NULL;
END $$;

CREATE FUNCTION sidegate_take_end_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM sidegate_count_end(old, -1);
    UPDATE sessions SET ran_out_at = NULL WHERE id = new.id;
    RETURN NULL;
END $$;

CREATE TRIGGER beginnings_are_counted AFTER INSERT ON sessions
FOR EACH ROW EXECUTE FUNCTION sidegate_count_beginning();

-- Of one that has run out already, and was counted, the end is behind it.
CREATE TRIGGER revocations_are_counted AFTER UPDATE OF revoked_at ON sessions FOR EACH ROW
WHEN (old.revoked_at IS NULL AND new.revoked_at IS NOT NULL AND old.ran_out_at IS NULL)
EXECUTE FUNCTION sidegate_count_change();

CREATE TRIGGER natural_ends_are_counted AFTER UPDATE OF ran_out_at ON sessions FOR EACH ROW
WHEN (old.ran_out_at IS NULL AND new.ran_out_at IS NOT NULL)
EXECUTE FUNCTION sidegate_count_change();

-- One that goes before anybody has noted its end.
CREATE TRIGGER deletions_are_counted AFTER DELETE ON sessions FOR EACH ROW
WHEN (old.revoked_at IS NULL AND old.ran_out_at IS NULL)
EXECUTE FUNCTION sidegate_count_deletion();

-- It was seen before it ran out, and that is told late.
CREATE TRIGGER ends_are_taken_back AFTER UPDATE OF last_seen_at, expires_at ON sessions FOR EACH ROW
WHEN (
    old.ran_out_at IS NOT NULL AND new.revoked_at IS NULL
    AND (new.last_seen_at > old.last_seen_at OR new.expires_at > old.expires_at)
)
EXECUTE FUNCTION sidegate_take_end_back();
