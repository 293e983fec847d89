"""Client binding: reduction of signals, and mismatches."""

from ipaddress import ip_address
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.core.binding import (
    UNBOUND,
    Binding,
    PrefixLengths,
    Signal,
    Signals,
    bind,
    find_mismatches,
    reduce_signal,
)

SESSION_ID: Final = "01890a5d-ac96-774b-bcce-b302099a8057"
OTHER_SESSION_ID: Final = "01890a5d-ac96-774b-bcce-b302099a8058"
PREFIXES: Final = PrefixLengths()

FIREFOX: Final = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
CHROME: Final = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/126.0.0.0 Safari/537.36"
)
EDGE: Final = CHROME + " Edg/125.0.2535.67"
OPERA: Final = CHROME + " OPR/112.0.0.0"
SAFARI: Final = (
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko)"
    " Version/17.5 Safari/605.1.15"
)
IPHONE: Final = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15"
    " (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
)
CHROME_ON_IPHONE: Final = IPHONE.replace("Version/17.5", "CriOS/126.0.6478.54")
FIREFOX_ON_IPHONE: Final = IPHONE.replace("Version/17.5", "FxiOS/127.0")
SAMSUNG: Final = CHROME.replace("Chrome/", "SamsungBrowser/25.0 Chrome/")
HEADLESS: Final = CHROME.replace("Chrome/", "HeadlessChrome/")

CLIENT: Final = Signals("192.0.2.7", FIREFOX, "de-CH,de;q=0.9", "device 7")


def bind_client(signals: Signals, session_id: str = SESSION_ID) -> Binding:
    return bind(session_id, signals, prefixes=PREFIXES)


def mismatched(bound: Signals, presented: Signals) -> set[Signal]:
    return set(
        find_mismatches(
            SESSION_ID,
            bind_client(bound),
            signals=presented,
            prefixes=PREFIXES,
            watched=set(Signal),
        )
    )


# --- Reduction of signals


@pytest.mark.parametrize(
    ("value", "reduced"),
    [
        (FIREFOX, "Firefox/128"),
        (CHROME, "Chrome/126"),
        (EDGE, "Edge/125"),
        (OPERA, "Opera/112"),
        (SAFARI, "Safari/17"),
        (IPHONE, "Safari/17"),
        (CHROME_ON_IPHONE, "Chrome/126"),
        (FIREFOX_ON_IPHONE, "Firefox/127"),
        (SAMSUNG, "SamsungBrowser/25"),
        (HEADLESS, "HeadlessChrome/126"),
        ("curl/8.5.0", "curl/8"),
        ("  curl/8.5.0 ", "curl/8"),
        ("python-requests/2.32.3", "python-requests/2"),
        ("My Shop/4.12 (iPhone; iOS 17.5) CFNetwork/1494", "My Shop/4"),
        ("okhttp", "okhttp/"),
        ("app/beta", "app/"),
        ("Mozilla/5.0 (compatible; Bot/2.1)", "Mozilla/5"),
        ("Firefox/128.0 pretending", "Firefox/128"),
        ("é/1", None),
        ("a" * 64 + "/1", "a" * 64 + "/1"),
        ("a" * 65 + "/1", None),
        ("/8", None),
        ("", None),
        ("   ", None),
        ("curl/8\x00", None),
        ("curl/8\t", None),
        ("curl/8" + "x" * 8000, None),
    ],
)
def test_user_agent_is_reduced_to_family_and_major_version(value: str, reduced: str | None) -> None:
    assert reduce_signal(Signal.USER_AGENT, value, prefixes=PREFIXES) == reduced


@pytest.mark.parametrize(
    ("value", "language"),
    [
        ("de-CH,de;q=0.9,en;q=0.8", "de-ch"),
        ("DE-ch", "de-ch"),
        ("en;q=0.5", "en"),
        (" zh-Hant-TW , en", "zh-hant-tw"),
        ("*", "*"),
        ("", None),
        (",en", None),
        ("de_CH", None),
        ("de-", None),
        ("de\x00", None),
        ("x" * 2000, None),
    ],
)
def test_accept_language_is_reduced_to_the_first_language(value: str, language: str | None) -> None:
    assert reduce_signal(Signal.ACCEPT_LANGUAGE, value, prefixes=PREFIXES) == language


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.7", "192.0.2.250", True),
        ("192.0.2.7", "192.0.3.7", False),
        ("192.0.2.7", " 192.0.2.7:5555 ", True),
        ("192.0.2.7", "::ffff:192.0.2.8", True),
        ("192.0.2.7", "[::ffff:192.0.2.8]:443", True),
        ("2001:db8:1:200::1", "2001:db8:1:2ff:ffff::2", True),
        ("2001:db8:1:200::1", "2001:db8:1:300::1", False),
        ("2001:db8::1", "[2001:DB8::2]:80", True),
        ("2001:db8::1", "[2001:db8::1]", True),
        ("0.0.0.0", "::", False),
    ],
)
def test_addresses_of_one_network_are_reduced_to_the_same_value(
    one: str, other: str, same: bool
) -> None:
    networks = [reduce_signal(Signal.IP, each, prefixes=PREFIXES) for each in (one, other)]

    assert None not in networks
    assert (networks[0] == networks[1]) == same


@pytest.mark.parametrize(
    "value",
    [
        "",
        "fe80::1%eth0",
        "[fe80::1%25eth0]:80",
        "192.0.2.7, 192.0.2.8",
        "192.0.2",
        "192.0.2.256",
        "192.0.02.7",
        "192.0.2.7:",
        "192.0.2.7:http",
        "[2001:db8::1",
        "2001:db8::1]:80",
        "unknown",
        "_hidden",
        "192.0.2.7\n",
        "١٩٢.0.2.7",
        "1" * 5000,
    ],
)
def test_malformed_address_has_no_value(value: str) -> None:
    assert reduce_signal(Signal.IP, value, prefixes=PREFIXES) is None


@pytest.mark.parametrize(("v4", "v6"), [(0, 56), (33, 56), (24, 0), (24, 129)])
def test_prefix_length_out_of_range_raises_value_error(v4: int, v6: int) -> None:
    with pytest.raises(ValueError, match="prefix"):
        PrefixLengths(v4, v6)


@given(st.ip_addresses(), st.ip_addresses(), st.integers(1, 32), st.integers(1, 128))
def test_only_the_configured_prefix_is_compared(
    one: object, other: object, v4: int, v6: int
) -> None:
    prefixes = PrefixLengths(v4, v6)

    def prefix_of(text: str) -> object:
        address = ip_address(text)
        mapped = getattr(address, "ipv4_mapped", None) or address
        width = v4 if mapped.version == 4 else v6
        return mapped.version, f"{int(mapped):0{mapped.max_prefixlen}b}"[:width]

    same = prefix_of(str(one)) == prefix_of(str(other))
    assert (
        reduce_signal(Signal.IP, str(one), prefixes=prefixes)
        == reduce_signal(Signal.IP, str(other), prefixes=prefixes)
    ) == same


@given(st.sampled_from(Signal), st.text(st.characters(exclude_categories=())))
def test_reduction_is_total_and_deterministic(signal: Signal, value: str) -> None:
    assert reduce_signal(signal, value, prefixes=PREFIXES) == reduce_signal(
        signal, value, prefixes=PREFIXES
    )


# --- Binding and comparison


def test_same_client_has_no_mismatch() -> None:
    assert mismatched(CLIENT, CLIENT) == set()


def test_other_client_mismatches_in_each_signal() -> None:
    other = Signals("198.51.100.7", CHROME, "en", "device 8")

    assert mismatched(CLIENT, other) == set(Signal)


def test_missing_signal_is_a_mismatch() -> None:
    assert mismatched(CLIENT, Signals()) == set(Signal)


def test_malformed_signal_is_a_mismatch() -> None:
    assert mismatched(CLIENT, Signals("fe80::1%1", "\0", "-", "")) == set(Signal)


@pytest.mark.parametrize("signal", Signal)
def test_session_is_bound_to_known_signals_only(signal: Signal) -> None:
    known = Signals(**{signal.value: CLIENT.get(signal)})

    assert [name for name, _ in bind_client(known).pairs()] == [signal.value]
    assert mismatched(known, CLIENT) == set()
    assert mismatched(known, Signals()) == {signal}


def test_unbound_session_has_no_mismatch() -> None:
    assert bind_client(Signals()) is UNBOUND
    assert mismatched(Signals(), CLIENT) == set()


@pytest.mark.parametrize("watched", [set(), {Signal.IP}, {Signal.HEADER, Signal.USER_AGENT}])
def test_only_watched_signals_are_compared(watched: set[Signal]) -> None:
    assert (
        set(
            find_mismatches(
                SESSION_ID,
                bind_client(CLIENT),
                signals=Signals(),
                prefixes=PREFIXES,
                watched=watched,
            )
        )
        == watched
    )


def test_signal_of_a_newer_version_is_not_a_mismatch() -> None:
    binding = Binding.pack([("future_signal", bytes(8)), *bind_client(CLIENT).pairs()])

    assert not list(
        find_mismatches(SESSION_ID, binding, signals=CLIENT, prefixes=PREFIXES, watched=set(Signal))
    )


@pytest.mark.parametrize(
    "malformed",
    [
        Signals(ip="fe80::1%eth0"),
        Signals(user_agent=""),
        Signals(accept_language="?"),
        Signals(header=" "),
    ],
)
def test_binding_to_a_malformed_signal_raises_value_error(malformed: Signals) -> None:
    with pytest.raises(ValueError, match="not a value that a request can have"):
        bind_client(malformed)


def test_hashes_are_short_and_differ_between_sessions() -> None:
    digests = [digest for _, digest in bind_client(CLIENT).pairs()]
    others = [digest for _, digest in bind_client(CLIENT, OTHER_SESSION_ID).pairs()]

    assert [len(digest) for digest in digests] == [8, 8, 8, 8]
    assert not set(digests) & set(others)
    assert len(bind_client(CLIENT)) < 100


@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=()), max_size=60), st.binary())))
def test_binding_of_any_signals_is_packed_and_unpacked(
    pairs: list[tuple[str, bytes]],
) -> None:
    binding = Binding.pack(pairs)

    assert list(binding.pairs()) == pairs
    assert bool(binding) == bool(pairs)


def test_packing_more_than_255_bytes_raises_value_error() -> None:
    for pair in (("x" * 256, b""), ("x", bytes(256))):
        with pytest.raises(ValueError, match="range"):
            Binding.pack([pair])


def test_repr_of_a_binding_has_its_signals_only() -> None:
    assert (
        repr(bind_client(Signals(ip="192.0.2.1", user_agent="curl/8"))) == "Binding(ip, user_agent)"
    )


headers = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1)


@given(headers, headers)
def test_header_is_compared_as_a_whole(one: str, other: str) -> None:
    assert (mismatched(Signals(header=one), Signals(header=other)) == set()) == (one == other)
