"""Sidegate: session validation for API gateways, and a session manager.

Packages, from the bottom up. A package imports only from those below it, which
tests/test_architecture.py checks:

    core            pure values and rules: token, session, verdict, judge; the store protocols
    services        what is done with sessions: validate, create, rotate, revoke, audit, analytics
    stores          memory, Redis, Postgres, SQLite, and the wrappers around them
    observability   metrics and logs
    web             listeners, HTTP, gateway protocols, the admin API
    settings        reading and validating the configuration
    runtime         the composition root: builds all of the above, serves, reloads, stops
    cli             the command line

The path of a request. Each step makes a new immutable value:

    Head -> Subrequest -> TokenText -> Digest -> Session -> Verdict -> Response
    web/    web/gateways  core/token            stores     core/judge  web/gateways
    server

    web/server/listener.py accepts the connection. Plain requests take the fast path
    (web/server/fast_path.py), which answers from bytes; all others take the aiohttp path. Both call
    the same web/gate/check.py, which asks services/validator.py.

The path of a cache miss (runtime/container.py builds it):

    stores/memory.py -> stores/negative_cache.py -> stores/single_flight.py
        -> stores/redis/store.py, wrapped by stores/client/ (batching, metrics, trust, guard)
        -> stores/postgres/sessions.py or stores/sqlite/sessions.py, wrapped likewise

    stores/read_through.py joins two of them and fills the cache on the way back. The fast path asks
    Redis by stores/prefetch.py, without a task for each request.

Where is ...

    a token parsed                      core/token.py (KeyRing); read from headers in
                                        web/gateways/credentials.py
    a cache miss sent to Redis          stores/read_through.py, stores/prefetch.py
    Redis distrusted                    stores/client/redis_trust.py; decided by
                                        services/change_poller.py and runtime/invalidation.py
    a session ended                     services/sessions.py (revoke), services/rotation.py (token
                                        reuse), services/binding.py; one row changes in
                                        stores/postgres/sessions.py or stores/sqlite/sessions.py
    the audit trail written             by triggers: stores/sql/migrations/*/0007_audit.sql; hashed
                                        into a chain by services/audit_seal.py
    a worker process started            runtime/supervisor.py
    a test server started               tests/support/servers.py (Redis, Postgres),
                                        tests/gateways/launch.py, tests/support/sidegate.py

To add ...

    a gateway                           web/gateways/<protocol>.py and a row in web/gate/app.py; a
                                        product with an existing protocol: a row in
                                        tests/gateways/launch.py and a file in deploy/
    a header to read                    a role in web/server/messages.py's Head
    a store                             stores/<name>/ and a row in tests/contracts/harnesses.py
    a store wrapper                     stores/client/, and a row in tests/contracts/harnesses.py
    a client signal to bind to          core/binding.py, web/gateways/client_signals.py, and
                                        BindingSection in settings/sections.py
    a reason to deny                    core/verdict.py, core/judge.py
    an operation on sessions            core/session.py (the pure step), services/sessions.py or
                                        rotation.py, web/schemas/, a row in web/admin/routes.py
    an admin endpoint                   a method in web/admin/, a schema in web/schemas/, a row in
                                        web/admin/routes.py (the OpenAPI document is made of it)
    a problem code                      web/schemas/problems.py, the routes that may answer it
    a command                           cli/, registered in cli/main.py
    a migration                         the next number in stores/sql/migrations/{postgres,sqlite}/
    a source of change notifications    stores/, runtime/invalidation.py
    a setting                           settings/sections.py, config/sidegate.yaml; in
                                        runtime/reload.py if a reload may change it
    a metric                            observability/metrics.py
    a cause of an end                   core/analytics.py, stores/sql/analytics_rows.py
"""
