"""The benchmark: Sidegate and reference servers in turn, on one core each, against goals.

docs/performance.md describes the method. No test compares anything with a time: the tests here are
of the pure parts.

    __main__         the command line: `./dev bench --help`
    run              the order of the measurements
    catalogue        the metrics by name, and the goals

    sidegate_targets Sidegate as a target of wrk
    references       nginx, nginx with Lua; handlers on aiohttp (plain_aiohttp), in Go and in Rust
    alternatives     oauth2-proxy, Oathkeeper
    footprint        start-up time and memory
    revocation       from a revocation on one instance to the first denial on another
    tails            latencies at constant rates below and above the highest
    profile          the time of a memory hit, function by function

    environment      stores and instances, started on first use
    sessions         the sessions in the databases
    webserver        nginx, with the configurations in nginx/
    cores            the server under test on one core, everything else on the others
    http_requests    the requests that are sent
    target           a target of wrk, and how its responses are verified
    load             wrk, with the scripts in wrk/, and its output
    open_loop        load at a constant rate
    compilers        builds the programs in programs/, in Go and Rust
    connection       a single HTTP connection, for requests that are not load
    effort, errors   duration of a run; exceptions

    series           one value per round: medians, ratios, percentiles
    goals            goals, and whether they are met
    report, plot     tables, Markdown, JSON; the chart
    machine          a description of the machine

    soak/            `./dev soak`: a long load, after which nothing may have grown without a reason
"""
