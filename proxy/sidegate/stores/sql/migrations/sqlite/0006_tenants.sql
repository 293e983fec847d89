-- A label chosen by the caller: limits count each tenant separately, conditions select by it.
ALTER TABLE sessions ADD COLUMN tenant TEXT;

-- The client's address as sortable digits (core/client_ip.py): a network is one range.
ALTER TABLE sessions ADD COLUMN ip_key TEXT;

-- The subject at the provider; a logout token may name it instead of a session.
ALTER TABLE sessions ADD COLUMN provider_subject TEXT;
CREATE INDEX sessions_by_provider ON sessions (provider, provider_session_id)
WHERE provider IS NOT NULL;
CREATE INDEX sessions_by_subject ON sessions (provider, provider_subject)
WHERE provider_subject IS NOT NULL;

-- The last change: time, actor and source address; null in rows written before this migration.
ALTER TABLE sessions ADD COLUMN changed_at INTEGER;
ALTER TABLE sessions ADD COLUMN changed_by TEXT;
ALTER TABLE sessions ADD COLUMN changed_from TEXT;
