CREATE TABLE sessions (
    id uuid PRIMARY KEY,
    digest bytea NOT NULL UNIQUE CHECK (octet_length(digest) = 32),
    previous_digest bytea UNIQUE CHECK (octet_length(previous_digest) = 32),
    previous_until timestamptz,
    -- Compared for equality only; "C" keeps the index valid when the system's locales are upgraded.
    user_id text COLLATE "C" NOT NULL,
    type text NOT NULL,
    scopes text[] NOT NULL,
    created_at timestamptz NOT NULL,
    authenticated_at timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    -- Microseconds, not an interval: a day of an interval lasts 23 to 25 hours.
    idle_timeout bigint CHECK (idle_timeout > 0),
    revoked_at timestamptz,
    version bigint NOT NULL CHECK (version >= 1),
    ip text,
    user_agent text,
    device text,
    -- json stores the text as written; jsonb would rewrite large numbers.
    metadata json NOT NULL CHECK (json_typeof(metadata) = 'object'),
    access_count bigint NOT NULL CHECK (access_count >= 0),
    refresh_count bigint NOT NULL CHECK (refresh_count >= 0),
    provider text,
    provider_session_id text,
    revoked_by text,
    revoked_reason text,
    -- The transaction of the last change; null while the session was never changed.
    changed_xid xid8,
    CHECK (expires_at > created_at),
    CHECK (digest <> previous_digest),
    CHECK ((previous_digest IS NULL) = (previous_until IS NULL)),
    CONSTRAINT sessions_times_have_four_digit_years CHECK (
        least(
            created_at, authenticated_at, last_seen_at, expires_at, revoked_at, previous_until
        ) >= timestamptz '0001-01-01 00:00:00+00'
        AND greatest(
            created_at, authenticated_at, last_seen_at, expires_at, revoked_at, previous_until
        ) < timestamptz '10000-01-01 00:00:00+00'
    )
);

CREATE INDEX sessions_by_user ON sessions (user_id, created_at DESC, id DESC);
CREATE INDEX sessions_by_expiry ON sessions (expires_at);
CREATE INDEX sessions_by_change ON sessions (changed_xid) WHERE changed_xid IS NOT NULL;
