-- With the token that was presented it gives the successor's; without it, nothing.
ALTER TABLE sessions ADD COLUMN rotation_nonce bytea;

-- Every digest that has been rotated out: it opens nothing any more, but it is recognised.
CREATE TABLE rotated_digests (
    digest bytea PRIMARY KEY CHECK (octet_length(digest) = 32),
    session_id uuid NOT NULL REFERENCES sessions (id) ON DELETE CASCADE
);

CREATE INDEX rotated_digests_of_session ON rotated_digests (session_id);
