-- The last hold on each session's lock. It ends at `expires_at` by this server's clock, or when it
-- is released. The row stays, so that the next fence is higher.
CREATE TABLE session_locks (
    session_id uuid PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    fence bigint NOT NULL,
    -- SHA-256 of the holder's lease; null once it was released.
    lease bytea CHECK (octet_length(lease) = 32),
    holder text,
    expires_at timestamptz,
    CHECK ((lease IS NULL) = (expires_at IS NULL))
);
