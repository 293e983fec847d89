-- With the token that was presented it gives the successor's; without it, nothing.
ALTER TABLE sessions ADD COLUMN rotation_nonce bytea;

-- Every digest that has been rotated out, until when it opened, and what its successor came from.
CREATE TABLE rotated_digests (
    digest bytea PRIMARY KEY CHECK (octet_length(digest) = 32),
    session_id uuid NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    until timestamptz NOT NULL,
    nonce bytea
);

CREATE INDEX rotated_digests_of_session ON rotated_digests (session_id);
