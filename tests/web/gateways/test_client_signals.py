"""The fast comparison of client signals agrees with the slow one."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidegate.core.binding import (
    UNBOUND,
    Binding,
    PrefixLengths,
    Signal,
    Signals,
    bind,
    find_mismatches,
)
from sidegate.web.gateways.client_signals import SignalSources
from sidegate.web.server.messages import Head

SESSION_ID = "01936f2e-8f4a-7c3b-9d51-2f6f0e1c4b7a"
ROLES = ("client", "user_agent", "accept_language", "device")
LONG = "x" * 500

addresses = st.sampled_from(
    ["198.51.100.7", "198.51.100.9", "198.51.101.7", "2001:db8::1", "2001:db8:0:100::1"]
)
user_agents = st.sampled_from(["curl/8.1", "curl/8.2", "curl/9", "Mozilla/5.0 Firefox/128.0"])
languages = st.sampled_from(["de-CH,de;q=0.9", "de-ch", "en"])
devices = st.sampled_from(["phone", "tablet", LONG])
malformed = st.sampled_from(["", " ", "\x00", "a, b", "\x80", LONG, "1.2.3.4, 198.51.100.7", ",,"])


def raw_values(valid: st.SearchStrategy[str]) -> st.SearchStrategy[bytes | None]:
    """Return values of a header as they arrive: absent, padded, repeated or malformed, too."""
    texts = (valid | malformed).map(lambda text: text.encode("latin-1"))
    repeated = st.tuples(texts, texts).map(b"\r\n".join)
    return st.none() | texts | texts.map(lambda text: text + b" \t") | repeated


heads = st.tuples(
    *(raw_values(valid) for valid in (addresses, user_agents, languages, devices))
).map(lambda values: Head(b"GET", b"/", **dict(zip(ROLES, values, strict=True))))
signals = st.builds(
    Signals,
    ip=st.none() | addresses,
    user_agent=st.none() | user_agents,
    accept_language=st.none() | languages,
    header=st.none() | devices,
)
sources = st.builds(
    SignalSources,
    enabled=st.frozensets(st.sampled_from(Signal)),
    header=st.just(b"x-device"),
    trusted_hops=st.integers(0, 2),
)
prefix_lengths = st.sampled_from([PrefixLengths(), PrefixLengths(32, 128), PrefixLengths(8, 32)])


@given(signals, heads, sources, prefix_lengths, st.booleans())
@example(
    Signals("198.51.100.7", "curl/8.1"),
    Head(b"GET", b"/", client=b"1.1.1.1, 198.51.100.9", user_agent=b"curl/8.2 "),
    SignalSources(frozenset(Signal)),
    PrefixLengths(),
    True,
)
def test_fast_comparison_agrees_with_the_slow_one(
    bound: Signals,
    head: Head,
    sources: SignalSources,
    prefixes: PrefixLengths,
    is_list: bool,
) -> None:
    binding = bind(SESSION_ID, bound, prefixes=prefixes)
    matches = sources.build_matcher(prefixes, is_list=is_list).matches(
        SESSION_ID, binding, raw_values=head.raw_signals
    )
    presented = sources.read(head, is_list=is_list) or Signals()
    mismatched = [
        *find_mismatches(
            SESSION_ID, binding, signals=presented, prefixes=prefixes, watched=sources.enabled
        )
    ]

    if matches:
        assert mismatched == []
    elif mismatched == []:  # the slow comparison is for what is rare
        names = {name for name, _ in binding.pairs()}
        is_long = any(len(value) > 400 for value in head.raw_signals if value is not None)
        assert is_long or not names <= {signal.value for signal in sources.enabled}


def test_signals_are_compared_in_each_position() -> None:
    values = ("198.51.100.7", "curl/8", "de", "phone")
    matcher = SignalSources(frozenset(Signal)).build_matcher(PrefixLengths())
    raw = [value.encode() for value in values]
    binding = bind(SESSION_ID, Signals(*values), prefixes=PrefixLengths())

    assert matcher.matches(SESSION_ID, binding, raw_values=raw)
    assert not matcher.matches("another session", binding, raw_values=raw)
    for position in range(len(raw)):
        for other in (None, b"2", b"en"):
            assert not matcher.matches(
                SESSION_ID, binding, raw_values=[*raw[:position], other, *raw[position + 1 :]]
            )


@pytest.mark.parametrize("bound", range(2 ** len(Signal)))
def test_any_of_the_watched_signals_are_compared_fast(bound: int) -> None:
    """A client need not send all of them when its session is created."""
    values = {"ip": "198.51.100.7", "user_agent": "curl/8", "accept_language": "de", "header": "x"}
    sent = {name: values[name] for bit, name in enumerate(values) if bound >> bit & 1}
    matcher = SignalSources(frozenset(Signal)).build_matcher(PrefixLengths())
    binding = bind(SESSION_ID, Signals(**sent), prefixes=PrefixLengths())

    assert matcher.matches(
        SESSION_ID, binding, raw_values=[value.encode() for value in values.values()]
    )


@pytest.mark.parametrize("newer", [("retina", b"hash"), ("screen", bytes(8))])
def test_what_only_a_newer_version_knows_is_left_to_the_slow_comparison(
    newer: tuple[str, bytes],
) -> None:
    bound = bind(SESSION_ID, Signals(user_agent="curl/8"), prefixes=PrefixLengths())
    matcher = SignalSources(frozenset(Signal)).build_matcher(PrefixLengths())
    raw = (None, b"curl/8", None, b"a header of the same size")

    assert matcher.matches(SESSION_ID, bound, raw_values=raw)
    assert not matcher.matches(SESSION_ID, Binding.pack([*bound.pairs(), newer]), raw_values=raw)
    assert not matcher.matches(SESSION_ID, Binding.pack([newer]), raw_values=raw)
    assert matcher.matches(SESSION_ID, UNBOUND, raw_values=raw)
