-- What may still live, of one user and type: the rest of a user's sessions are not looked at.
CREATE INDEX sessions_living_of_user ON sessions (user_id, type, expires_at) WHERE revoked_at IS NULL;

-- What an Idempotency-Key claims: a hash of it that only the API key it came with can make.
ALTER TABLE sessions ADD COLUMN claim BLOB CHECK (length(claim) = 32);
CREATE UNIQUE INDEX sessions_by_claim ON sessions (claim) WHERE claim IS NOT NULL;
