-- Derives the next token from the one that was presented; useless without that token.
ALTER TABLE sessions ADD COLUMN rotation_nonce bytea;

-- Every digest that was rotated out, the end of its grace, and the nonce of its successor.
CREATE TABLE rotated_digests (
    digest bytea PRIMARY KEY CHECK (octet_length(digest) = 32),
    session_id uuid NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    valid_until timestamptz NOT NULL,
    nonce bytea
);

CREATE INDEX rotated_digests_by_session ON rotated_digests (session_id);
