-- Which logout tokens have been obeyed (core/logout.py): none is a second time.
CREATE TABLE obeyed_logouts (
    id BLOB PRIMARY KEY NOT NULL CHECK (length(id) = 32),
    until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX obeyed_logouts_by_end ON obeyed_logouts (until);
