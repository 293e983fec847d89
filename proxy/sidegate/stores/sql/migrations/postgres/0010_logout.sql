-- Which logout tokens have been obeyed (core/logout.py): none is a second time.
CREATE TABLE obeyed_logouts (
    id bytea PRIMARY KEY CHECK (octet_length(id) = 32),
    until timestamptz NOT NULL
);

CREATE INDEX obeyed_logouts_by_end ON obeyed_logouts (until);
