-- The logout tokens that were processed (core/logout.py): each is processed once.
CREATE TABLE processed_logout_tokens (
    id BLOB PRIMARY KEY NOT NULL CHECK (length(id) = 32),
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX processed_logout_tokens_by_expiry ON processed_logout_tokens (expires_at);
