"""Results as text, as Markdown, as a JSON document."""

import json

from tests.bench.catalogue import goals_about
from tests.bench.goals import AtMost, AtMostTimes, evaluate
from tests.bench.open_loop import OpenLoopSample
from tests.bench.report import build_document, format_markdown, format_text
from tests.bench.run import Measurement, Results
from tests.bench.series import Series
from tests.bench.tails import Cell

BUSY, IDLE = Series.of(0.99, 0.98, 1.0), Series.of(0.5, 0.4, 0.6)
SAMPLE = OpenLoopSample(
    seconds=2.0,
    answers=90_000,
    good=80_000,
    unavailable=1_000,
    failed=39_000,
    missed=7_000,
    p50=0.025,
    p99=0.069,
    p999=0.0787,
    max=0.15,
    late=0.0463,
)
FINDINGS = Results(
    {
        "nginx": Measurement(Series.of(90_000.0, 100_000.0, 110_000.0), Series.of(1.5), IDLE),
        "local": Measurement(
            Series.of(45_000.0, 51_000.4, 56_000.0),
            Series.of(2.5),
            BUSY,
            failed=0.0123,
            cpu=Series.of(19.0, 20.04, 21.0),
        ),
        "redis": Measurement(Series.of(9_000.0), batch_size=Series.of(9.0, 10.04, 11.0)),
        "ready": Measurement(Series.of(1.25)),
    },
    {"oauth2-proxy": "not installed"},
    {"sidegate-2k-3x": Cell(SAMPLE, 0.000024)},
)
OUTCOMES = evaluate(
    [
        *goals_about({"local", "nginx", "oauth2-proxy", "ready"}),
        AtMostTimes("create:cpu", 4.5, "aiohttp:cpu"),
        AtMost("sidegate-2k-3x:failed", 0),
    ],
    FINDINGS.series(),
)
MACHINE = {"cores": "2", "nginx": "1.22.1"}


TEXT = """\
name   metric                              median  lowest to highest      CPU     p99  core
local  hit in memory, all features on   51,000 /s   45,000 to 56,000  20.0 µs  2.5 ms   99%
redis  hit in Redis                      9,000 /s
nginx  nginx, return 200               100,000 /s  90,000 to 110,000           1.5 ms  50%*
ready  start until ready                   1.25 s

name            offered         good      CPU      p50      p99    p99.9       max    503  \
other failures  sent late
sidegate-2k-3x  60,000 /s  40,000 /s  24.0 µs  25.0 ms  69.0 ms  78.7 ms  150.0 ms  1,000  \
        39,000    46.3 ms

goal                             measured       verdict
local >= 0.48 x nginx            0.509 x            met
local >= 6 x oauth2-proxy                  not measured
ready <= 1 s                     1.25 s          MISSED
create:cpu <= 4.5 x aiohttp:cpu            not measured
sidegate-2k-3x:failed <= 0       40,000          MISSED

* The server did not use its whole core: the load generator, a store or another program on this \
machine was the bottleneck. The server alone reaches at least this rate.

local: 1.23% of the requests failed, and are not counted.

redis: 10.0 hits in a round trip.

sidegate-2k-3x: 7,000 more requests were due; the load generator was not fast enough.

Skipped: oauth2-proxy (not installed).

cores: 2; nginx: 1.22.1"""


def test_text_has_tables_notes_and_the_machine() -> None:
    assert format_text(FINDINGS, OUTCOMES, MACHINE) == TEXT


def test_markdown_has_the_same_tables() -> None:
    text = format_markdown(FINDINGS, OUTCOMES, MACHINE)

    assert text.startswith(
        "| name | metric | median | lowest to highest | CPU | p99 | core |\n"
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| local | hit in memory, all features on | 51,000 /s | 45,000 to 56,000 | 20.0 µs |"
        " 2.5 ms | 99% |\n"
    )
    assert "\n\n\\* The server did not use its whole core" in text  # not a list item


def test_document_has_all_values_of_all_rounds() -> None:
    found = json.loads(json.dumps(build_document(FINDINGS, OUTCOMES, MACHINE)))

    assert found["measured"]["local"]["values"] == [45_000.0, 51_000.4, 56_000.0]
    assert found["measured"]["local"]["core"] == [0.99, 0.98, 1.0]
    assert [goal["met"] for goal in found["goals"]] == [True, None, False, None, False]
    assert found["skipped"] == {"oauth2-proxy": "not installed"}
    assert found["measured"]["local"]["cpu_us"] == [19.0, 20.04, 21.0]
    assert found["tails"]["sidegate-2k-3x"]["unavailable"] == 1_000
    assert found["tails"]["sidegate-2k-3x"]["cpu"] == 0.000024
    assert found["machine"] == MACHINE


def test_report_without_measurements_has_no_tables() -> None:
    nothing = Results({}, {"local": "wrk is not installed"})

    assert format_text(nothing, [], MACHINE) == (
        "Skipped: local (wrk is not installed).\n\ncores: 2; nginx: 1.22.1"
    )
