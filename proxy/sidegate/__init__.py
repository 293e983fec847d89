"""Sidegate: session validation for API gateways, and a session manager.

Packages, from the bottom up. A package imports only from those below it, which
tests/test_architecture.py checks:

    core            pure values and rules: token, session, verdict, judge; the store protocols
    services        what is done with sessions: validate, create, rotate, revoke, audit, analytics
    stores          memory, Redis, Postgres, SQLite, and the wrappers around them
    observability   metrics and logs
    web             listeners, HTTP, gateway protocols, the admin API
    gateway_config  configurations for gateways, rendered from templates
    settings        reading and validating the configuration
    runtime         the composition root: builds all of the above, serves, reloads, stops
    cli             the command line

The path of a request. Each step makes a new immutable value:

    Head -> Subrequest -> TokenText -> Digest -> Session -> Verdict -> Response
    web/    web/gateways  core/token            stores     core/judge  web/gateways
    server

    web/server/listener.py accepts the connection. Plain requests take the fast path
    (web/server/fast_path.py), which answers from bytes; all others take the aiohttp path. Both call
    the same web/gate/check.py, which calls services/validator.py.

The path of a cache miss: stores/lookup.py (SessionLookup) looks in

    stores/memory.py, stores/negative_cache.py, then once for all callers of a digest in
    stores/redis/store.py and in stores/postgres/sessions.py or stores/sqlite/sessions.py

    and fills the caches on the way back. Redis and the database are wrapped by stores/client/:
    Batched(Metered(Trusted(Guarded(store)))), Trusted around Redis only; runtime/lookup.py builds
    them. The fast path looks in Redis, or without one in the database, by SessionLookup.prefetch:
    one task for all lookups of a loop iteration, and a callback for each.

Where is ...

    a token parsed                      core/token.py (KeyRing); read from headers in
                                        web/gateways/credentials.py
    an access rule applied              core/rules.py (the table), core/target.py (every reading of
                                        a target); web/gate/check_by_rule.py chooses the check,
                                        web/gate/rule_checks.py has them
    a token kept from the application   web/gateways/returned_headers.py, web/gate/returning.py
    a cache miss sent to Redis          stores/lookup.py
    Redis trusted or not                stores/client/redis_trust.py; verified and brought forward
                                        by services/cache_follower.py, invalidated by
                                        services/publisher.py; docs/architecture.md has the protocol
    a key or a script in Redis          stores/redis/sealed_write.py; read in stores/redis/store.py
    a command sent to Redis             stores/redis/pipelines.py, on connections that the client
                                        library has opened (stores/redis/connection.py)
    a change of a session found         services/change_poller.py (for memory) and
                                        services/cache_follower.py (for Redis), from
                                        stores/{postgres,sqlite}/changes.py
    the URL of a store read             core/postgres_url.py, core/redis_url.py: tables of what each
                                        scheme allows; used in stores/postgres/connector.py and
                                        stores/redis/topology.py
    why a store refuses us said         stores/postgres/connection.py, stores/redis/reasons.py;
                                        logged by stores/connection_log.py
    the limit of metadata               core/metadata.py; checked in web/schemas/values.py, and
                                        after a merge in services/rotation.py
    the limit of the identity           web/gateways/identity_headers.py; checked by
                                        Rules.check_identity in services/sessions.py, rotation.py
    the database's time taken           services/clock_sync.py; stores/redis/clock.py without the
                                        database; kept in core/clock.py
    a restore of the database noticed   stores/sql/change_rows.py; services/database_restore.py
    idleness known or not               services/idleness.py
    a session ended                     services/sessions.py (revoke), rotation.py (token reuse),
                                        binding.py, backchannel_logout.py; by a limit in
                                        stores/{postgres,sqlite}/sessions.py, where the row changes
    the audit trail written             by triggers: stores/sql/migrations/*/0007_audit.sql; hashed
                                        into a chain by services/audit_seal.py
    a rule that a reload changes        services/rules.py (each service reads the version in force);
                                        built in runtime/rules_in_force.py, swapped in
                                        runtime/reload.py
    a worker process started            runtime/supervisor.py
    a gateway configured                gateway_config/products.py (products and their parts),
                                        gateway_config/templates/; cli/gateway.py
    a test server started               tests/support/servers.py (Redis, Postgres),
                                        tests/gateways/launch.py, tests/support/sidegate.py

To add ...

    a gateway                           web/gateways/ (base.py has the protocol) and a row in
                                        web/gate/app.py; a product with an existing protocol:
                                        a row in gateway_config/products.py and its templates, a
                                        row in tests/gateways/launch.py, a site in
                                        tests/gateways/sites/
    a source of credentials             CredentialSources in web/gateways/credentials.py, and
                                        web/gateways/returned_headers.py
    a header to read                    a role in web/server/messages.py's Head
    a store                             stores/<name>/ and a row in tests/contracts/harnesses.py
    a store wrapper                     stores/client/, and a row in tests/contracts/harnesses.py
    a client signal to bind to          core/binding.py, web/gateways/client_signals.py, and
                                        BindingSection in settings/sections.py
    a reason to deny                    core/verdict.py, core/judge.py
    a condition of access rules         core/requirement.py, settings/rule_section.py, a row in
                                        docs/rules.md
    a way to read a path                a step in core/target.py, rows in tests/core/test_target.py
    an operation on sessions            core/session.py (the pure step), services/sessions.py or
                                        rotation.py, web/schemas/, a row in web/admin/routes.py
    an admin endpoint                   a method in web/admin/, a schema in web/schemas/, a row in
                                        web/admin/routes.py (the OpenAPI document is made of it)
    a problem code                      web/schemas/problems.py, the routes that may answer it
    a command                           cli/, registered in cli/main.py
    a migration                         the next number in stores/sql/migrations/{postgres,sqlite}/
    a source of change notifications    stores/, runtime/invalidation.py
    a parameter of a store's URL        its table in core/, docs/deployment.md
    a setting                           settings/sections.py (Reloadable: a reload applies it),
                                        config/sidegate.yaml, `sidegate config schema`
    a metric                            a method in observability/metrics/recorder.py, a row in the
                                        table of its subject beside it
    a page of docs/reference/           .ci/reference_pages/; `./dev reference` writes all of them,
                                        deploy/, and the parts that docs/gateways/ shows
    a log event                         the module that logs it, docs/reference/events.md
    a cause of an end                   core/analytics.py, stores/sql/analytics_rows.py
"""
