"""Binding: the same client is the same, another is another, and who says less is another."""

from ipaddress import ip_address
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.core.binding import (
    UNBOUND,
    Binding,
    Signal,
    Signals,
    Widths,
    bind,
    mismatches,
    reduced,
)

ID: Final = "01890a5d-ac96-774b-bcce-b302099a8057"
ANOTHER_ID: Final = "01890a5d-ac96-774b-bcce-b302099a8058"
WIDTHS: Final = Widths()

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


def kept(signals: Signals, session_id: str = ID) -> Binding:
    return bind(session_id, signals, WIDTHS)


def disagreeing(bound: Signals, shown: Signals) -> set[Signal]:
    return set(mismatches(ID, kept(bound), shown, WIDTHS, watched=set(Signal)))


# What counts of a signal


@pytest.mark.parametrize(
    ("shown", "program"),
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
def test_a_user_agent_is_a_family_and_a_major_version(shown: str, program: str | None) -> None:
    assert reduced(Signal.USER_AGENT, shown, WIDTHS) == program


@pytest.mark.parametrize(
    ("shown", "language"),
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
def test_of_the_languages_the_first_counts(shown: str, language: str | None) -> None:
    assert reduced(Signal.ACCEPT_LANGUAGE, shown, WIDTHS) == language


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
def test_addresses_of_one_network_are_one(one: str, other: str, same: bool) -> None:
    networks = [reduced(Signal.IP, each, WIDTHS) for each in (one, other)]

    assert None not in networks
    assert (networks[0] == networks[1]) == same


@pytest.mark.parametrize(
    "shown",
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
def test_what_is_no_address_says_nothing(shown: str) -> None:
    assert reduced(Signal.IP, shown, WIDTHS) is None


@pytest.mark.parametrize(("v4", "v6"), [(0, 56), (33, 56), (24, 0), (24, 129)])
def test_a_prefix_fits_its_address(v4: int, v6: int) -> None:
    with pytest.raises(ValueError, match="prefix"):
        Widths(v4, v6)


@given(st.ip_addresses(), st.ip_addresses(), st.integers(1, 32), st.integers(1, 128))
def test_the_configured_bits_count_and_no_others(
    one: object, other: object, v4: int, v6: int
) -> None:
    widths = Widths(v4, v6)

    def bits(text: str) -> object:
        address = ip_address(text)
        mapped = getattr(address, "ipv4_mapped", None) or address
        width = v4 if mapped.version == 4 else v6
        return mapped.version, f"{int(mapped):0{mapped.max_prefixlen}b}"[:width]

    same = bits(str(one)) == bits(str(other))
    assert (reduced(Signal.IP, str(one), widths) == reduced(Signal.IP, str(other), widths)) == same


@given(st.sampled_from(Signal), st.text(st.characters(exclude_categories=())))
def test_reducing_never_fails_and_is_the_same_every_time(signal: Signal, shown: str) -> None:
    assert reduced(signal, shown, WIDTHS) == reduced(signal, shown, WIDTHS)


# What is kept, and compared


def test_the_same_client_agrees() -> None:
    assert disagreeing(CLIENT, CLIENT) == set()


def test_another_client_disagrees_in_each_signal() -> None:
    other = Signals("198.51.100.7", CHROME, "en", "device 8")

    assert disagreeing(CLIENT, other) == set(Signal)


def test_what_is_not_shown_disagrees() -> None:
    assert disagreeing(CLIENT, Signals()) == set(Signal)


def test_what_cannot_be_read_disagrees() -> None:
    assert disagreeing(CLIENT, Signals("fe80::1%1", "\0", "-", "")) == set(Signal)


@pytest.mark.parametrize("signal", Signal)
def test_a_session_is_bound_to_what_was_known_and_to_nothing_else(signal: Signal) -> None:
    known = Signals(**{signal.value: CLIENT.of(signal)})

    assert [name for name, _ in kept(known).pairs()] == [signal.value]
    assert disagreeing(known, CLIENT) == set()
    assert disagreeing(known, Signals()) == {signal}


def test_a_session_bound_to_nothing_agrees_with_everybody() -> None:
    assert kept(Signals()) is UNBOUND
    assert disagreeing(Signals(), CLIENT) == set()


@pytest.mark.parametrize("watched", [set(), {Signal.IP}, {Signal.HEADER, Signal.USER_AGENT}])
def test_only_what_is_watched_is_compared(watched: set[Signal]) -> None:
    assert set(mismatches(ID, kept(CLIENT), Signals(), WIDTHS, watched=watched)) == watched


def test_a_signal_of_a_newer_version_is_nobodys_mismatch() -> None:
    binding = Binding.of([("a signal of tomorrow", bytes(8)), *kept(CLIENT).pairs()])

    assert not list(mismatches(ID, binding, CLIENT, WIDTHS, watched=set(Signal)))


@pytest.mark.parametrize(
    "malformed",
    [
        Signals(ip="fe80::1%eth0"),
        Signals(user_agent=""),
        Signals(accept_language="?"),
        Signals(header=" "),
    ],
)
def test_nobody_is_bound_to_what_no_request_can_show(malformed: Signals) -> None:
    with pytest.raises(ValueError, match="nothing a request could show"):
        kept(malformed)


def test_what_is_kept_tells_neither_address_nor_program_nor_who_shares_them() -> None:
    digests = [digest for _, digest in kept(CLIENT).pairs()]
    anothers = [digest for _, digest in kept(CLIENT, ANOTHER_ID).pairs()]

    assert [len(digest) for digest in digests] == [8, 8, 8, 8]
    assert not set(digests) & set(anothers)
    assert len(kept(CLIENT)) < 100


@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=()), max_size=60), st.binary())))
def test_a_binding_is_packed_and_unpacked_whatever_the_signals_are(
    pairs: list[tuple[str, bytes]],
) -> None:
    binding = Binding.of(pairs)

    assert list(binding.pairs()) == pairs
    assert bool(binding) == bool(pairs)


def test_what_does_not_fit_into_a_binding_is_refused() -> None:
    for pair in (("x" * 256, b""), ("x", bytes(256))):
        with pytest.raises(ValueError, match="range"):
            Binding.of([pair])


def test_a_binding_shows_its_signals_only() -> None:
    assert repr(kept(Signals(ip="192.0.2.1", user_agent="curl/8"))) == "Binding(ip, user_agent)"


headers = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1)


@given(headers, headers)
def test_a_header_counts_whole(one: str, other: str) -> None:
    assert (disagreeing(Signals(header=one), Signals(header=other)) == set()) == (one == other)
