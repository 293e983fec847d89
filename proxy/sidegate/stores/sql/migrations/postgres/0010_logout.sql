-- The logout tokens that were processed (core/logout.py): each is processed once.
CREATE TABLE processed_logout_tokens (
    id bytea PRIMARY KEY CHECK (octet_length(id) = 32),
    expires_at timestamptz NOT NULL
);

CREATE INDEX processed_logout_tokens_by_expiry ON processed_logout_tokens (expires_at);
