"""Simulate three instances and their stores in one process, in virtual time, from a seed.

    event_loop.py     virtual time, and the order in which the processes run
    entropy.py        everything random, from the seed
    network.py        connections in memory, which are delayed, cut and rerouted
    redis_server.py   a Redis in memory: the commands and the one script that the product uses
    database_state.py, database.py, database_client.py
                      a database in memory: transactions, snapshots, row locks
    instance.py       the services of the product, as `sidegate serve` runs them
    workload.py       clients: their requests, and the history of them
    faults.py         what is done to the processes, the network and the stores
    run.py            one run, from a plan to its violations
    shrinking.py      a smaller plan that still fails
    broken_builds.py  the builds with an injected bug that the simulation has to find

docs/faults.md says what it covers. The product knows nothing of it.
"""
