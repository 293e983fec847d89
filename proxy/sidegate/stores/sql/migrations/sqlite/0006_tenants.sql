-- A tenant is a label of the caller's: limits count its sessions apart, conditions select them.
ALTER TABLE sessions ADD COLUMN tenant TEXT;

-- The client's address as sortable digits (core/client_ip.py), so that a network is one stretch.
ALTER TABLE sessions ADD COLUMN ip_key TEXT;

-- The user as the provider calls them; its log-out may name them instead of a session.
ALTER TABLE sessions ADD COLUMN provider_subject TEXT;
CREATE INDEX sessions_of_provider ON sessions (provider, provider_session_id)
WHERE provider IS NOT NULL;
CREATE INDEX sessions_of_subject ON sessions (provider, provider_subject)
WHERE provider_subject IS NOT NULL;

-- The last change: when, by whom, and from which address; null in rows of before.
ALTER TABLE sessions ADD COLUMN changed_at INTEGER;
ALTER TABLE sessions ADD COLUMN changed_by TEXT;
ALTER TABLE sessions ADD COLUMN changed_from TEXT;
