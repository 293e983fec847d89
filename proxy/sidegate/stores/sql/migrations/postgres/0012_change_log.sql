-- Marks in the change log (core/change_log.py). Servers of the previous version run on this schema,
-- too: table cache_generation and its trigger stay for them. The version after this one drops both.

-- A creation is a change. Null in sessions that were created before this migration and not changed
-- since: visible in every snapshot.
ALTER TABLE sessions ALTER COLUMN changed_xid SET DEFAULT pg_current_xact_id();

-- For pages of changes: one transaction may change many sessions.
DROP INDEX sessions_by_change;
CREATE INDEX sessions_by_change ON sessions (changed_xid, id) WHERE changed_xid IS NOT NULL;

-- The transaction that rotated the digest out; 1 is visible in every snapshot. The last column, with
-- a default: servers of the previous version insert without naming the columns.
ALTER TABLE rotated_digests ADD COLUMN changed_xid xid8 NOT NULL DEFAULT '1';
ALTER TABLE rotated_digests ALTER COLUMN changed_xid SET DEFAULT pg_current_xact_id();

-- For the digests of a session within their grace, and those rotated out since a mark.
DROP INDEX rotated_digests_by_session;
CREATE INDEX rotated_digests_by_session ON rotated_digests (session_id, valid_until);
CREATE INDEX rotated_digests_by_change ON rotated_digests (session_id, changed_xid);

-- The last marks. A mark that is missing was deleted as too old, or was lost by a restore or a
-- failover together with changes that it covers.
CREATE TABLE cache_marks (
    -- A UUIDv7: random, and with the time, which a lost mark still tells.
    id uuid PRIMARY KEY DEFAULT encode(set_bit(set_bit(overlay(
        uuid_send(gen_random_uuid())
        PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
        FROM 1 FOR 6
    ), 52, 1), 53, 1), 'hex')::uuid,
    snapshot text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    number bigint GENERATED ALWAYS AS IDENTITY UNIQUE
);

-- The digests of a session, older than the previous one, that are within their grace; 10 s more,
-- because the clocks of the instances differ.
--
-- A volatile function, because it sees what was committed before it is called: a statement that
-- waited for the lock on a session also gets the digests rotated out while it waited.
CREATE FUNCTION sidegate_rotated_digests(p_session_id uuid, p_previous_digest bytea)
RETURNS bytea[] LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN ARRAY(
        SELECT digest FROM rotated_digests
        WHERE session_id = p_session_id AND digest IS DISTINCT FROM p_previous_digest
            AND valid_until > now() - interval '10 seconds'
    );
END $$;

-- Identifies the database cluster; 'postgres' if the role may not read that.
CREATE FUNCTION sidegate_system() RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT system_identifier::text FROM pg_control_system());
EXCEPTION WHEN insufficient_privilege OR undefined_function OR feature_not_supported THEN
    RETURN 'postgres';
END $$;
