-- The current generation of cache entries: entries of an earlier one are stale.
CREATE TABLE cache_generation (number bigint NOT NULL);
INSERT INTO cache_generation VALUES (1);
