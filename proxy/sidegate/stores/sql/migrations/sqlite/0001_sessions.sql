-- Times are microseconds since 1970, UTC.
CREATE TABLE sessions (
    id TEXT PRIMARY KEY NOT NULL,
    digest BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),
    previous_digest BLOB UNIQUE CHECK (length(previous_digest) = 32),
    previous_until INTEGER,
    user_id TEXT NOT NULL,
    type TEXT NOT NULL,
    scopes TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    authenticated_at INTEGER NOT NULL,
    last_seen_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    idle_timeout INTEGER CHECK (idle_timeout > 0),
    revoked_at INTEGER,
    version INTEGER NOT NULL CHECK (version >= 1),
    ip TEXT,
    user_agent TEXT,
    device TEXT,
    metadata TEXT NOT NULL,
    access_count INTEGER NOT NULL CHECK (access_count >= 0),
    refresh_count INTEGER NOT NULL CHECK (refresh_count >= 0),
    provider TEXT,
    provider_session_id TEXT,
    revoked_by TEXT,
    revoked_reason TEXT,
    -- The number of the last change; null while the session was never changed.
    change_number INTEGER,
    CHECK (expires_at > created_at),
    CHECK (digest <> previous_digest),
    CHECK ((previous_digest IS NULL) = (previous_until IS NULL))
) STRICT;

CREATE INDEX sessions_by_user ON sessions (user_id, created_at DESC, id DESC);
CREATE INDEX sessions_by_expiry ON sessions (expires_at);
CREATE INDEX sessions_by_change ON sessions (change_number) WHERE change_number IS NOT NULL;

-- One row: the number of changes so far, those of deleted sessions included.
CREATE TABLE change_counter (number INTEGER NOT NULL) STRICT;
INSERT INTO change_counter VALUES (0);

-- A trigger writes the change and its number in one statement: neither exists without the other.
CREATE TRIGGER number_session_change AFTER UPDATE OF version ON sessions
BEGIN
    UPDATE change_counter SET number = number + 1;
    UPDATE sessions SET change_number = (SELECT number FROM change_counter) WHERE id = new.id;
END;
