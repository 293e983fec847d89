-- The last hold on each session's lock. It ends at `expires_at` by this machine's clock, or when it
-- is released. The row stays, so that the next fence is higher.
CREATE TABLE session_locks (
    session_id TEXT PRIMARY KEY NOT NULL,
    fence INTEGER NOT NULL,
    -- SHA-256 of the holder's lease; null once it was released.
    lease BLOB CHECK (length(lease) = 32),
    holder TEXT,
    expires_at INTEGER,
    CHECK ((lease IS NULL) = (expires_at IS NULL))
) STRICT, WITHOUT ROWID;

CREATE TRIGGER delete_session_lock AFTER DELETE ON sessions
BEGIN
    DELETE FROM session_locks WHERE session_id = old.id;
END;
