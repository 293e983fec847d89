-- What hot stores may be believed: copies of an earlier generation are not.
CREATE TABLE hot_generation (number bigint NOT NULL);
INSERT INTO hot_generation VALUES (1);
