-- When the session expired or became idle; null until that is recorded. It is recorded once, so that
-- no end is counted twice.
ALTER TABLE sessions ADD COLUMN timed_out_at INTEGER;

-- Creations and ends not yet in the totals, each written by the statement that caused it. Adding
-- them to the totals deletes them: each is counted once.
CREATE TABLE analytics_events (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    type TEXT NOT NULL,
    -- created, revoked, expired or idle.
    kind TEXT NOT NULL,
    revoked_by TEXT,
    revoked_reason TEXT,
    -- 1, or -1 to retract an end.
    delta INTEGER NOT NULL,
    -- Microseconds from creation to end; null for a creation.
    duration INTEGER CHECK (duration >= 0)
) STRICT;

-- The totals of all events that were added.
CREATE TABLE analytics_counts (
    kind TEXT NOT NULL,
    type TEXT NOT NULL,
    total INTEGER NOT NULL,
    PRIMARY KEY (kind, type)
) STRICT;
CREATE TABLE analytics_durations (
    bucket INTEGER PRIMARY KEY,
    total INTEGER NOT NULL,
    duration_sum INTEGER NOT NULL
) STRICT;

-- One row: when an instance last reserved a sample.
CREATE TABLE analytics_sampling (reserved_at INTEGER NOT NULL) STRICT;
INSERT INTO analytics_sampling VALUES (0);

CREATE TABLE analytics_samples (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    active INTEGER NOT NULL,
    users INTEGER NOT NULL,
    -- The active sessions by type; the totals above at that time.
    by_type TEXT NOT NULL,
    totals TEXT NOT NULL
) STRICT;

-- Covering index for the search for the peak.
CREATE INDEX analytics_samples_by_time ON analytics_samples (at, active);

CREATE TRIGGER count_session_created AFTER INSERT ON sessions
BEGIN
    INSERT INTO analytics_events (type, kind, delta) VALUES (new.type, 'created', 1);
    INSERT INTO analytics_events (type, kind, revoked_by, revoked_reason, delta, duration)
    SELECT new.type, 'revoked', new.revoked_by, new.revoked_reason, 1,
        max(0, new.revoked_at - new.created_at)
    WHERE new.revoked_at IS NOT NULL;
END;

-- A session that was recorded as timed out has been counted already.
CREATE TRIGGER count_session_revoked AFTER UPDATE OF revoked_at ON sessions
WHEN old.revoked_at IS NULL AND new.revoked_at IS NOT NULL AND old.timed_out_at IS NULL
BEGIN
    INSERT INTO analytics_events (type, kind, revoked_by, revoked_reason, delta, duration)
    VALUES (
        new.type, 'revoked', new.revoked_by, new.revoked_reason, 1,
        max(0, new.revoked_at - new.created_at)
    );
END;

CREATE TRIGGER count_session_timed_out AFTER UPDATE OF timed_out_at ON sessions
WHEN old.timed_out_at IS NULL AND new.timed_out_at IS NOT NULL
BEGIN
    INSERT INTO analytics_events (type, kind, delta, duration)
    VALUES (
        new.type, iif(new.timed_out_at < new.expires_at, 'idle', 'expired'), 1,
        max(0, new.timed_out_at - new.created_at)
    );
END;

-- A session that is deleted before its end was recorded.
CREATE TRIGGER count_session_deleted AFTER DELETE ON sessions
WHEN old.revoked_at IS NULL AND old.timed_out_at IS NULL
BEGIN
    INSERT INTO analytics_events (type, kind, delta, duration)
    VALUES (
        old.type,
        iif(coalesce(old.last_seen_at + old.idle_timeout < old.expires_at, 0), 'idle', 'expired'), 1,
        max(0, min(
            old.expires_at, coalesce(old.last_seen_at + old.idle_timeout, old.expires_at)
        ) - old.created_at)
    );
END;

-- A late touch or extension shows that the session had not timed out.
CREATE TRIGGER retract_session_timeout AFTER UPDATE OF last_seen_at, expires_at ON sessions
WHEN old.timed_out_at IS NOT NULL AND new.revoked_at IS NULL
    AND (new.last_seen_at > old.last_seen_at OR new.expires_at > old.expires_at)
BEGIN
    INSERT INTO analytics_events (type, kind, delta, duration)
    VALUES (
        old.type, iif(old.timed_out_at < old.expires_at, 'idle', 'expired'), -1,
        max(0, old.timed_out_at - old.created_at)
    );
    UPDATE sessions SET timed_out_at = NULL WHERE id = new.id;
END;
