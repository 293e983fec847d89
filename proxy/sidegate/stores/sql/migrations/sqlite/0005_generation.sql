-- The current generation of cache entries: entries of an earlier one are stale.
CREATE TABLE cache_generation (number INTEGER NOT NULL) STRICT;
INSERT INTO cache_generation VALUES (1);
