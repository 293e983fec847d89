"""A model of trust in Redis, and a search of it for states that the protocol must exclude.

One database, which can be restored to a backup; two Redis servers, which lose data, roll back and
replace each other; one or two instances with two connections each. One session with up to three
tokens. Every step of the protocol and every fault is one transition from state to state.

    database.py     the session, the numbers of transactions, the marks
    redis.py        copies, the seal, and the scripts that Redis runs
    world.py        the state of everything
    rounds.py       the steps of the cache follower
    requests.py     the steps of changes, fills, lookups, and of the change poller
    faults.py       what happens without the protocol, and time
    protocol.py     the elements of the protocol, each of which can be left out
    search.py       what may happen next, and a breadth-first search of it
    walks.py        random walks, and recovery after them
    rows.py         the situations to search

Time passes in ticks. In each, every instance ends a round, finds that it cannot, or is suspended.
Checked: a digest that the database has refused for two ticks is not allowed by an instance, from
Redis or memory; after all faults every instance trusts its Redis again within three rounds.

`python -m tests.model` walks longer than the tests do.
"""
