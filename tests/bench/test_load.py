"""What wrk and our scripts print becomes a sample, or an error."""

import pytest

from tests.bench.errors import WrongAnswers
from tests.bench.load import Sample, read

SAID = """\
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
sample answers=17793 duration=2100000 refused={refused} broken={broken} p50=3600 p99=7313
"""


def test_a_sample_is_read_from_the_last_line() -> None:
    sample = read(SAID.format(refused=0, broken=0))

    assert sample == Sample(good=17793, failed=0, duration=2.1, p50=0.0036, p99=0.007313)
    assert round(sample.rate) == 8473


def test_what_was_refused_or_broken_is_no_good_answer() -> None:
    sample = read(SAID.format(refused=3, broken=2))

    assert (sample.good, sample.failed) == (17790, 5)


@pytest.mark.parametrize(("refused", "broken"), [(17793, 0), (2000, 0), (0, 2000)])
def test_a_load_that_fails_is_no_sample(refused: int, broken: int) -> None:
    with pytest.raises(WrongAnswers, match=f"{refused + broken} requests failed"):
        read(SAID.format(refused=refused, broken=broken))


def test_a_load_without_answers_is_no_sample() -> None:
    with pytest.raises(WrongAnswers, match="0 did not"):
        read("sample answers=0 duration=1000000 refused=0 broken=0 p50=0 p99=0\n")


def test_a_script_that_died_is_no_sample() -> None:
    with pytest.raises(WrongAnswers, match="no sample"):
        read("Running 2s test @ http://127.0.0.1:29812/\nload.lua:9: no such file\n")
