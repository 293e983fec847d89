-- Rings at the commit of whatever changes a session or begins a generation. Instances listen, and
-- then ask what it was; what one transaction rings many times is heard once.
CREATE FUNCTION sidegate_ring() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('sidegate', '');
    RETURN NULL;
END $$;

CREATE TRIGGER changes_are_rung AFTER UPDATE OF version ON sessions
FOR EACH ROW EXECUTE FUNCTION sidegate_ring();

CREATE TRIGGER generations_are_rung AFTER UPDATE ON hot_generation
FOR EACH ROW EXECUTE FUNCTION sidegate_ring();
