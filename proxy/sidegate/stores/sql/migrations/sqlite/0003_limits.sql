-- The sessions of one user and type that may be active; the others are not read.
CREATE INDEX sessions_unrevoked_by_user ON sessions (user_id, type, expires_at)
WHERE revoked_at IS NULL;

-- A keyed hash of the Idempotency-Key: only the owner of the API key can compute it.
ALTER TABLE sessions ADD COLUMN idempotency_key_hash BLOB
CHECK (length(idempotency_key_hash) = 32);
CREATE UNIQUE INDEX sessions_by_idempotency_key ON sessions (idempotency_key_hash)
WHERE idempotency_key_hash IS NOT NULL;
