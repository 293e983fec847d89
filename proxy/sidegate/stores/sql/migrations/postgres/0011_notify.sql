-- Notifies at the commit of each change of a session or of the cache generation. Instances listen,
-- and then query the changes. Postgres delivers equal notifications of one transaction once.
CREATE FUNCTION sidegate_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('sidegate', '');
    RETURN NULL;
END $$;

CREATE TRIGGER notify_session_change AFTER UPDATE OF version ON sessions
FOR EACH ROW EXECUTE FUNCTION sidegate_notify();

CREATE TRIGGER notify_generation_change AFTER UPDATE ON cache_generation
FOR EACH ROW EXECUTE FUNCTION sidegate_notify();
