"""The fault rig: injects faults into a deployment under load, and checks its invariants.

    python -m tests.faults --help       (or ./dev faults)

    history         the recorded operations, on one clock, without tokens
    rules           limits that instances have to keep: grace period, bounds, deadline
    ledger          all changes by session: when each ended, and when it may have ended
    ledgers         one for each time between two restores of the database
    checker         violations of I1 to I6 and I9 in a history; pure
    consistency     violations in lists, limits, the audit trail, unanswered checks: I5, I7, I8, I12
    stats           statistics for a row of the table: shares, percentiles, recovery; pure
    sample_entries  history entries for the tests of these

    client          a pool of persistent connections
    gateway         a simulated gateway in front of both instances
    population      the sessions, by how they are checked
    admin_client    create, revoke, refresh and list through the admin API
    load            the open-loop load
    monitor         CPU waits and readiness, in the background
    redis_eviction  evicts single sessions from Redis

    deployment      the servers, and a TCP proxy from the instances to each store
    proxy_faults    faults in the forwarded bytes: resets, stray replies, cuts after COMMIT
    launcher        starts an instance that takes commands: another clock, a blocked event loop
    broken_builds   builds with an injected bug
    preparation     before the first fault: the load, the sessions, invalid tokens
    context         what an episode can act on
    revocations     sessions that an episode ends by itself, checked afterwards
    cached_copies   reads the copies in a Redis
    database_loss   what a restored database does not know
    restore_reports whether instances report that
    command_line    runs `sidegate` commands, optionally with a wrong clock
    event_loop      measures for how long an event loop is blocked
    many_clients    connections to the ops and the admin listener, in another process
    episodes/       how each fault is injected and repaired
    faults          the table of faults, with expected results
    resources       metrics and resource usage, measured from outside
    leaks           searches for tokens (I11)
    final_check     kill -9 everything, restart, and check every session once
    plan            what to run, and the outcome
    evaluation      from the history to a row
    run, report     one fault after the other, and the table

docs/faults.md defines the invariants I1 to I12.
"""
