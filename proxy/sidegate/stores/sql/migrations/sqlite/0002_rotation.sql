-- With the token that was presented it gives the successor's; without it, nothing.
ALTER TABLE sessions ADD COLUMN rotation_nonce BLOB;

-- Every digest that has been rotated out, until when it opened, and what its successor came from.
CREATE TABLE rotated_digests (
    digest BLOB PRIMARY KEY NOT NULL CHECK (length(digest) = 32),
    session_id TEXT NOT NULL,
    until INTEGER NOT NULL,
    nonce BLOB
) STRICT, WITHOUT ROWID;

CREATE INDEX rotated_digests_of_session ON rotated_digests (session_id);

-- Triggers, so that a session and its digests change in one statement and cannot come apart.
CREATE TRIGGER rotated_digests_are_remembered AFTER UPDATE OF previous_digest ON sessions
WHEN new.previous_digest IS NOT NULL
BEGIN
    INSERT OR IGNORE INTO rotated_digests
    VALUES (new.previous_digest, new.id, new.previous_until, new.rotation_nonce);
END;

CREATE TRIGGER rotated_digests_go_with_their_session AFTER DELETE ON sessions
BEGIN
    DELETE FROM rotated_digests WHERE session_id = old.id;
END;
