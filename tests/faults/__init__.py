"""The fault rig: two instances on a real Redis and a real Postgres, hurt under load, and judged.

    python -m tests.faults --help       (or ./dev faults)

    history      what was done, one line for each operation, on one clock; never a token
    rules        what an instance promises in figures: grace, bounds, deadline
    ledger       when each session was surely over, and when perhaps
    checker      history in, breaches of I1 to I6 and I9 out; pure
    trail        the same for lists, limits, the audit trail, and who was never answered: I5, I7,
                 I8, I12
    figures      the same for a row of the table: shares, percentiles, recovery; pure
    made_up      histories that never happened, for the tests of those who judge

    client       kept-alive connections and raw HTTP
    gateway      the two instances as a gateway sees them: ask one, if need be the other
    population   the sessions there are, and who is checked how
    verbs        create, revoke, refresh and list through the admin API
    load         open loop: what is due is sent, whatever came back
    beside       meanwhile: who waits for the CPU, and which instance is ready

    deployment   the servers, and a wire from the instances to each store
    mischief     what a wire does to the bytes that pass: resets, strays, cuts after COMMIT
    launcher     starts an instance that takes orders: another clock, a blocked loop, a broken build
    broken       builds that are broken on purpose
    setting      before the first fault: the players, the sessions, the worthless tokens
    forgetting   makes Redis forget one session
    stage        what an episode may touch
    on_redis, on_redis_replies, on_postgres, on_instances, on_clients, on_both
                 episodes: how a fault begins, and ends
    faults       the table of all of them, with what is expected
    watch        memory, descriptors, connections and series, before and after
    leaks        looks for tokens where none may be
    ending       kill -9 everything, start again, and ask for every session once
    plan         what to run, and what came of it
    judging      from a record to a row
    run, report  one fault after the other, and the table of them

The invariants I1 to I12 are written down in docs/faults.md.
"""
