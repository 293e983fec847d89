-- The last hold on each session's lock. It is over when its time is, by this machine's clock, or
-- when it was let go of; the row stays, so that the next fence is higher.
CREATE TABLE session_locks (
    session_id TEXT PRIMARY KEY NOT NULL,
    fence INTEGER NOT NULL,
    -- SHA-256 of what the holder proves itself with; null once it was let go of.
    lease BLOB CHECK (length(lease) = 32),
    holder TEXT,
    expires_at INTEGER,
    CHECK ((lease IS NULL) = (expires_at IS NULL))
) STRICT, WITHOUT ROWID;

CREATE TRIGGER locks_go_with_their_session AFTER DELETE ON sessions
BEGIN
    DELETE FROM session_locks WHERE session_id = old.id;
END;
