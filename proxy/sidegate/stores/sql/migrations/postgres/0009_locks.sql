-- The last hold on each session's lock. It is over when its time is, by this server's clock, or when
-- it was let go of; the row stays, so that the next fence is higher.
CREATE TABLE session_locks (
    session_id uuid PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    fence bigint NOT NULL,
    -- SHA-256 of what the holder proves itself with; null once it was let go of.
    lease bytea CHECK (octet_length(lease) = 32),
    holder text,
    expires_at timestamptz,
    CHECK ((lease IS NULL) = (expires_at IS NULL))
);
