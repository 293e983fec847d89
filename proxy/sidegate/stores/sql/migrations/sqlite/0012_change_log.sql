-- Marks in the change log (core/change_log.py). Servers of the previous version use this file, too:
-- table cache_generation stays for them. The version after this one drops it.

-- A creation is a change. Null in sessions that were created before this migration and not changed
-- since: they count as changed by number 1, which is taken by the update below.
UPDATE change_counter SET number = number + 1;

-- The number of the change that rotated the digest out; null before this migration.
ALTER TABLE rotated_digests ADD COLUMN change_number INTEGER;

-- For the digests of a session within their grace, and those rotated out since a mark.
DROP INDEX rotated_digests_by_session;
CREATE INDEX rotated_digests_by_session ON rotated_digests (session_id, valid_until);
CREATE INDEX rotated_digests_by_change ON rotated_digests (session_id, change_number);

CREATE TRIGGER number_session_created AFTER INSERT ON sessions
BEGIN
    UPDATE change_counter SET number = number + 1;
    UPDATE sessions SET change_number = (SELECT number FROM change_counter) WHERE id = new.id;
END;

-- One trigger instead of two, whose order is undefined: the digest gets the number of the change.
DROP TRIGGER number_session_change;
DROP TRIGGER save_rotated_digest;
CREATE TRIGGER number_session_change AFTER UPDATE OF version, previous_digest ON sessions
BEGIN
    UPDATE change_counter SET number = number + 1;
    UPDATE sessions SET change_number = (SELECT number FROM change_counter) WHERE id = new.id;
    INSERT OR IGNORE INTO rotated_digests (digest, session_id, valid_until, nonce, change_number)
    SELECT new.previous_digest, new.id, new.previous_until, new.rotation_nonce, number
    FROM change_counter WHERE new.previous_digest IS NOT NULL;
END;

-- The last marks. A mark that is missing was deleted as too old, or the file was replaced by an older
-- copy.
CREATE TABLE cache_marks (
    -- A UUIDv7: random, and with the time, which a lost mark still tells.
    id TEXT NOT NULL UNIQUE DEFAULT (lower(
        printf('%08x-', (julianday('now') - 2440587.5) * 86400000 / 65536)
        || printf('%04x-7', (julianday('now') - 2440587.5) * 86400000 % 65536)
        || substr(hex(randomblob(2)), 2) || '-8' || substr(hex(randomblob(2)), 2) || '-'
        || hex(randomblob(6))
    )),
    snapshot TEXT NOT NULL,
    at INTEGER NOT NULL
        DEFAULT (CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000),
    number INTEGER PRIMARY KEY AUTOINCREMENT
) STRICT;
