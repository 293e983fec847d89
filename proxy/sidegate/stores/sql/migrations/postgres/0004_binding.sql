-- Signal to digest, in hex: {"ip": "9c1f…"}; null while the session is bound to nothing.
ALTER TABLE sessions ADD COLUMN binding json CHECK (json_typeof(binding) = 'object');
