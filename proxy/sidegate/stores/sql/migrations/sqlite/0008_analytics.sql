-- When it ended by itself, noted by whoever counts ends; null until then. Noted once, so that no end
-- is counted twice.
ALTER TABLE sessions ADD COLUMN ran_out_at INTEGER;

-- Beginnings and ends that are not added up yet, each written by the statement that made it so.
-- Adding them up deletes them: each is counted once.
CREATE TABLE analytics_uncounted (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    type TEXT NOT NULL,
    -- created, revoked, expired or idle.
    what TEXT NOT NULL,
    revoked_by TEXT,
    revoked_reason TEXT,
    -- 1, or -1 where an end is taken back.
    times INTEGER NOT NULL,
    -- Microseconds from the beginning to the end; null of a beginning.
    lasted INTEGER CHECK (lasted >= 0)
) STRICT;

-- All that has been added up.
CREATE TABLE analytics_counts (
    what TEXT NOT NULL,
    type TEXT NOT NULL,
    times INTEGER NOT NULL,
    PRIMARY KEY (what, type)
) STRICT;
CREATE TABLE analytics_durations (
    bucket INTEGER PRIMARY KEY,
    times INTEGER NOT NULL,
    lasted INTEGER NOT NULL
) STRICT;

-- One row: when an instance last took it upon itself to take a sample.
CREATE TABLE analytics_turn (taken_at INTEGER NOT NULL) STRICT;
INSERT INTO analytics_turn VALUES (0);

CREATE TABLE analytics_samples (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    active INTEGER NOT NULL,
    users INTEGER NOT NULL,
    -- How many of each type are active; the totals above as they were.
    by_type TEXT NOT NULL,
    totals TEXT NOT NULL
) STRICT;

-- With what a search for the peak needs, so that it reads no more than this.
CREATE INDEX analytics_samples_by_time ON analytics_samples (at, active);

CREATE TRIGGER beginnings_are_counted AFTER INSERT ON sessions
BEGIN
    INSERT INTO analytics_uncounted (type, what, times) VALUES (new.type, 'created', 1);
    INSERT INTO analytics_uncounted (type, what, revoked_by, revoked_reason, times, lasted)
    SELECT new.type, 'revoked', new.revoked_by, new.revoked_reason, 1,
        max(0, new.revoked_at - new.created_at)
    WHERE new.revoked_at IS NOT NULL;
END;

-- Of one that has run out already, and was counted, the end is behind it.
CREATE TRIGGER revocations_are_counted AFTER UPDATE OF revoked_at ON sessions
WHEN old.revoked_at IS NULL AND new.revoked_at IS NOT NULL AND old.ran_out_at IS NULL
BEGIN
    INSERT INTO analytics_uncounted (type, what, revoked_by, revoked_reason, times, lasted)
    VALUES (
        new.type, 'revoked', new.revoked_by, new.revoked_reason, 1,
        max(0, new.revoked_at - new.created_at)
    );
END;

CREATE TRIGGER natural_ends_are_counted AFTER UPDATE OF ran_out_at ON sessions
WHEN old.ran_out_at IS NULL AND new.ran_out_at IS NOT NULL
BEGIN
    INSERT INTO analytics_uncounted (type, what, times, lasted)
    VALUES (
        new.type, iif(new.ran_out_at < new.expires_at, 'idle', 'expired'), 1,
        max(0, new.ran_out_at - new.created_at)
    );
END;

-- One that goes before anybody has noted its end.
CREATE TRIGGER deletions_are_counted AFTER DELETE ON sessions
WHEN old.revoked_at IS NULL AND old.ran_out_at IS NULL
BEGIN
    INSERT INTO analytics_uncounted (type, what, times, lasted)
    VALUES (
        old.type,
        iif(coalesce(old.last_seen_at + old.idle_timeout < old.expires_at, 0), 'idle', 'expired'), 1,
        max(0, min(
            old.expires_at, coalesce(old.last_seen_at + old.idle_timeout, old.expires_at)
        ) - old.created_at)
    );
END;

-- It was seen before it ran out, and that is told late.
CREATE TRIGGER ends_are_taken_back AFTER UPDATE OF last_seen_at, expires_at ON sessions
WHEN old.ran_out_at IS NOT NULL AND new.revoked_at IS NULL
    AND (new.last_seen_at > old.last_seen_at OR new.expires_at > old.expires_at)
BEGIN
    INSERT INTO analytics_uncounted (type, what, times, lasted)
    VALUES (
        old.type, iif(old.ran_out_at < old.expires_at, 'idle', 'expired'), -1,
        max(0, old.ran_out_at - old.created_at)
    );
    UPDATE sessions SET ran_out_at = NULL WHERE id = new.id;
END;
