"""The benchmark: our roads and the references in turn, on one core each, against the goals.

docs/performance.md says how it measures, and why so. A test compares nothing with a time: the tests
here are of what is pure.

    __main__         the command line: `./dev bench --help`
    run              the order in which things are measured
    catalogue        what can be measured, by name, and the goals

    roads            Sidegate, as wrk is pointed at it
    references       nginx, nginx with Lua, a handler on aiohttp (plain_aiohttp)
    peers            oauth2-proxy, Oathkeeper
    upkeep           start-up and memory
    revocation       from a revocation here to the first refusal there

    stage            stores and instances, started when they are first needed
    sessions         what stands in the databases
    webserver        nginx, with the configurations in nginx/
    cores            the server under test on one core, everything else on the others
    questions        the requests everybody is sent
    target           where wrk is pointed, and how we know that it is the right place
    load             wrk, with the scripts in wrk/, and what it says
    connection       one HTTP connection of our own, for what is not load
    effort, errors   how long it may take; what can go wrong

    series           a value for each round: medians, ratios, percentiles
    goals            what is wanted, and whether it was met
    report, plot     tables, Markdown, JSON; the picture
    machine          on what all of this was measured
"""
