"""Sidegate: an API gateway asks whether a request may pass; Sidegate answers, and keeps sessions.

The house has floors, and a room may only use what the plan says (tests/test_house.py checks it):

    roof      cli, commands, app, house, truth, news, reload, supervisor, pauses,
              descriptors, providers, settings, healthcheck
                                    knows everybody, decides nothing; house.py introduces the others
    web       doors                 from bytes to a verdict and back; knows service and core
    service   what is done          validate, create, revoke ...; knows core
    stores    what is remembered    memory, Redis, Postgres, SQLite and their wrappers; knows core
    observe   what is watched       metrics, logs; knows core
    core      the rules             pure values and functions; knows nobody

The path of a request, one way and without mutation:

    Head -> Subrequest -> Token -> Digest -> Session -> Verdict -> Answer
    web     web/gateways  core     core      stores     core       web/gateways

    door reads the head, the gateway's adapter reads the subrequest, the key ring reads the token,
    the finder finds the session by digest, judge decides, the adapter writes the answer.

    Two lanes lead to the gate's desks (web/desk.py): express.py answers plain requests from their
    bytes, at once what memory knows, and without a task what a hot store knows (stores/fetcher.py);
    aiohttp (door.py, gate.py) has all others.

The finder is made of stores round stores (house.py):

    ReadThrough(local, RememberMisses(Coalesce(ReadThrough(redis, postgres))))

    where postgres is Metered(Batched(Guarded(leaf))), and redis is
    Batched(Metered(Confirmed(Guarded(leaf)))). Whom the Fetcher told nothing takes the same road
    without the questions that were just asked:

    Beyond(local, RememberMisses(Coalesce(Beyond(redis, postgres))))

Where do I add ...

    a gateway               web/gateways/<protocol>.py and a row in web/gate.py's table
    a header to read        a role in web/messages.py's Head; both lanes gather it
    a store                 stores/<name>.py and a row in tests/contracts
    a behaviour of stores   a wrapper in stores/, which passes the finder contract like a leaf
    a signal of a client    core/binding.py, web/signals.py, BindingSection, BindingPayload
    a reason to deny        core/verdict.py, then core/judge.py
    a verb                  core/session.py (the pure step), service/sessions.py or rotation.py,
                            web/payloads/ and a row in web/admin_table.py
    a route of the admin    a method in web/admin_*.py, its answer's shape in
                            web/payloads/documents.py, a row in web/admin_table.py, of which the
                            OpenAPI document is made, and a line in docs/admin-api.md
    a problem's code        web/problems.py, the rows that may answer it, docs/admin-api.md
    a kind of parameter     web/payloads/fields.py: its check and its schema, side by side
    a command               commands/, and cli.py
    a migration             the next number in stores/migrations/postgres and /sqlite
    a way to bring news     stores/, and news.py
    a setting               settings/sections.py (and reload.py, if it may change while running);
                            config/sidegate.yaml is compared with it by a test
    a metric                observe/prometheus.py
    a cause of an end       core/analytics.py, and WHAT in stores/analytics_rows.py
"""
