-- Derives the next token from the one that was presented; useless without that token.
ALTER TABLE sessions ADD COLUMN rotation_nonce BLOB;

-- Every digest that was rotated out, the end of its grace, and the nonce of its successor.
CREATE TABLE rotated_digests (
    digest BLOB PRIMARY KEY NOT NULL CHECK (length(digest) = 32),
    session_id TEXT NOT NULL,
    valid_until INTEGER NOT NULL,
    nonce BLOB
) STRICT, WITHOUT ROWID;

CREATE INDEX rotated_digests_by_session ON rotated_digests (session_id);

-- Triggers change a session and its digests in one statement: they cannot disagree.
CREATE TRIGGER save_rotated_digest AFTER UPDATE OF previous_digest ON sessions
WHEN new.previous_digest IS NOT NULL
BEGIN
    INSERT OR IGNORE INTO rotated_digests
    VALUES (new.previous_digest, new.id, new.previous_until, new.rotation_nonce);
END;

CREATE TRIGGER delete_rotated_digests AFTER DELETE ON sessions
BEGIN
    DELETE FROM rotated_digests WHERE session_id = old.id;
END;
