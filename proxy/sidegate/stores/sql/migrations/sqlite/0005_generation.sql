-- What hot stores may be believed: copies of an earlier generation are not.
CREATE TABLE hot_generation (number INTEGER NOT NULL) STRICT;
INSERT INTO hot_generation VALUES (1);
