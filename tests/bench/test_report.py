"""Findings as text, as Markdown, as a document."""

import json

from tests.bench.catalogue import concerned_goals
from tests.bench.goals import judged
from tests.bench.report import document, markdown, text
from tests.bench.run import Findings, Measured
from tests.bench.series import Series

BUSY, IDLE = Series.of(0.99, 0.98, 1.0), Series.of(0.5, 0.4, 0.6)
FINDINGS = Findings(
    {
        "nginx": Measured(Series.of(90_000.0, 100_000.0, 110_000.0), Series.of(1.5), IDLE),
        "local": Measured(
            Series.of(45_000.0, 51_000.4, 56_000.0), Series.of(2.5), BUSY, failed=0.0123
        ),
        "redis": Measured(Series.of(9_000.0), batch_size=Series.of(9.0, 10.04, 11.0)),
        "ready": Measured(Series.of(1.25)),
    },
    {"aiohttp": "it is not here"},
)
OUTCOMES = judged(concerned_goals({"local", "nginx", "aiohttp", "ready"}), FINDINGS.series())
MACHINE = {"cores": "2", "nginx": "1.22.1"}


TEXT = """\
name   what                                median  lowest to highest     p99  core
local  hit in memory, all features on   51,000 /s   45,000 to 56,000  2.5 ms   99%
redis  hit in Redis                      9,000 /s
nginx  nginx, return 200               100,000 /s  90,000 to 110,000  1.5 ms  50%*
ready  start until ready                   1.25 s

goal                     measured       verdict
local >= 0.50 x nginx    0.509 x            met
local >= 6.00 x aiohttp            not measured
ready <= 1 s             1.25 s          MISSED

* The server did not use its whole core: somebody else on this machine, the load generator or a \
store was the limit. Alone it does at least as much.

local: 1.23% of the requests failed, and are not counted.

redis: 10.0 hits in a round trip.

Left out: aiohttp (it is not here).

cores: 2; nginx: 1.22.1"""


def test_a_terminal_is_shown_tables_notes_and_the_machine() -> None:
    assert text(FINDINGS, OUTCOMES, MACHINE) == TEXT


def test_markdown_is_the_same_in_pipes() -> None:
    written = markdown(FINDINGS, OUTCOMES, MACHINE)

    assert written.startswith(
        "| name | what | median | lowest to highest | p99 | core |\n"
        "| --- | --- | ---: | ---: | ---: | ---: |\n"
        "| local | hit in memory, all features on | 51,000 /s | 45,000 to 56,000 | 2.5 ms | 99% |\n"
    )
    assert "\n\n\\* The server did not use its whole core" in written  # no list item


def test_a_document_has_every_value_of_every_round() -> None:
    found = json.loads(json.dumps(document(FINDINGS, OUTCOMES, MACHINE)))

    assert found["measured"]["local"]["values"] == [45_000.0, 51_000.4, 56_000.0]
    assert found["measured"]["local"]["core"] == [0.99, 0.98, 1.0]
    assert [goal["met"] for goal in found["goals"]] == [True, None, False]
    assert found["left_out"] == {"aiohttp": "it is not here"}
    assert found["machine"] == MACHINE


def test_where_everything_is_left_out_there_is_no_table_of_nothing() -> None:
    nothing = Findings({}, {"local": "wrk is not installed"})

    assert text(nothing, [], MACHINE) == (
        "Left out: local (wrk is not installed).\n\ncores: 2; nginx: 1.22.1"
    )
