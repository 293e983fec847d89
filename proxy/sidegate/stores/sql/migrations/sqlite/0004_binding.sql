-- Signal to digest in hex, like {"ip": "9c1f…"}; null if the session is bound to no signal.
ALTER TABLE sessions ADD COLUMN binding TEXT;
