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
    -- The number of the session's last change; null while there was none.
    changed INTEGER,
    CHECK (expires_at > created_at),
    CHECK (digest <> previous_digest),
    CHECK ((previous_digest IS NULL) = (previous_until IS NULL))
) STRICT;

CREATE INDEX sessions_of_user ON sessions (user_id, created_at DESC, id DESC);
CREATE INDEX sessions_by_expiry ON sessions (expires_at);
CREATE INDEX sessions_by_change ON sessions (changed) WHERE changed IS NOT NULL;

-- One row: how many changes there have been, of sessions that are gone too.
CREATE TABLE changes (number INTEGER NOT NULL) STRICT;
INSERT INTO changes VALUES (0);

-- A trigger, so that a change and its number are one statement and cannot come apart.
CREATE TRIGGER sessions_are_numbered_by_change AFTER UPDATE OF version ON sessions
BEGIN
    UPDATE changes SET number = number + 1;
    UPDATE sessions SET changed = (SELECT number FROM changes) WHERE id = new.id;
END;
