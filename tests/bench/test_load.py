"""The output of wrk and its scripts is parsed to a sample, or raises."""

import pytest

from tests.bench.errors import UnexpectedResponses
from tests.bench.load import Sample, parse_output

OUTPUT = """\
Running 2s test @ http://127.0.0.1:29812/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     3.77ms  731.34us  12.99ms   92.14%
    Req/Sec     8.51k   433.61     8.89k    90.48%
  Latency Distribution
     50%    3.60ms
     99%    7.31ms
  17793 requests in 2.10s, 6.91MB read
Requests/sec:   8472.86
Transfer/sec:      3.29MB
sample responses=17793 duration=2100000 status_errors={status} socket_errors={socket} \
p50=3600 p99=7313
"""


def test_sample_is_parsed_from_the_last_line() -> None:
    sample = parse_output(OUTPUT.format(status=0, socket=0))

    assert sample == Sample(good=17793, failed=0, duration=2.1, p50=0.0036, p99=0.007313)
    assert round(sample.rate) == 8473


def test_status_and_socket_errors_count_as_failed() -> None:
    sample = parse_output(OUTPUT.format(status=3, socket=2))

    assert (sample.good, sample.failed) == (17790, 5)


@pytest.mark.parametrize(("status", "socket"), [(17793, 0), (2000, 0), (0, 2000)])
def test_too_many_failures_raise(status: int, socket: int) -> None:
    with pytest.raises(UnexpectedResponses, match=f"{status + socket} requests failed"):
        parse_output(OUTPUT.format(status=status, socket=socket))


def test_no_responses_raise() -> None:
    with pytest.raises(UnexpectedResponses, match="0 did not"):
        parse_output(
            "sample responses=0 duration=1000000 status_errors=0 socket_errors=0 p50=0 p99=0\n"
        )


def test_failed_script_raises() -> None:
    with pytest.raises(UnexpectedResponses, match="no sample"):
        parse_output("Running 2s test @ http://127.0.0.1:29812/\nload.lua:9: no such file\n")
