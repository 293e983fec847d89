"""Every reading of hostile targets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.core.target import StatedTarget, fold, read_target

# Paths of attacks, and what some servers make of each.
HOSTILE = [
    # Dot segments
    ("/public/../admin", {"/admin"}),
    ("/public/./../admin", {"/admin"}),
    ("/public/x/../../admin", {"/admin"}),
    ("/public/../../admin", {"/admin"}),
    ("/public/..", {"/"}),
    ("/public/.", {"/public/"}),
    ("/admin/./", {"/admin/"}),
    # Encoded dots and slashes
    ("/public/%2e%2e/admin", {"/admin"}),
    ("/public/%2E%2E/admin", {"/admin"}),
    ("/public/.%2e/admin", {"/admin"}),
    ("/public/..%2fadmin", {"/admin", "/public/../admin"}),
    ("/public%2f..%2fadmin", {"/admin"}),
    ("/public/%2e%2e%2fadmin", {"/admin"}),
    ("/public%2fx", {"/public/x", "/public%2fx"}),
    ("/%61dmin", {"/admin", "/%61dmin"}),
    # Encoded twice and three times
    ("/public/%252e%252e/admin", {"/admin"}),
    ("/public/..%252fadmin", {"/admin"}),
    ("/public/%25252e%25252e%25252fadmin", {"/admin"}),
    ("/public/%%32%65%%32%65/admin", {"/admin"}),
    ("/%2561dmin", {"/admin"}),
    # IIS
    ("/public/%u002e%u002e/admin", {"/admin"}),
    ("/public/..%u2215admin", {"/admin"}),
    ("/public/..%uff0fadmin", {"/admin"}),
    # Slashes
    ("//admin", {"/admin", "/"}),
    ("///admin", {"/admin"}),
    ("/public//../admin", {"/admin", "/public/admin"}),
    ("//public/admin", {"/admin", "/public/admin"}),
    ("//evil.test/admin", {"/admin"}),
    ("/public/%2f%2fadmin", {"/public/admin"}),
    # Backslashes
    ("/public/..\\admin", {"/admin"}),
    ("/public\\..\\admin", {"/admin"}),
    ("/public/..%5cadmin", {"/admin"}),
    ("/public/..%255cadmin", {"/admin"}),
    # Path parameters
    ("/public/..;/admin", {"/admin"}),
    ("/public/..;x=1/admin", {"/admin"}),
    ("/public/..%3b/admin", {"/admin"}),
    ("/admin;/x", {"/admin/x"}),
    ("/;/admin", {"/admin"}),
    ("/admin;x", {"/admin"}),
    ("/public/.;/..;/admin", {"/admin"}),
    # A fragment, a query
    ("/admin#/../public/x", {"/admin"}),
    ("/admin%23/public/", {"/admin", "/admin#/public/"}),
    ("/public/secret%23/../../admin", {"/admin", "/public/secret"}),
    ("/admin%3f/../public/x", {"/admin"}),
    ("/admin?x=/public/y", {"/admin"}),
    ("/public/x?/../../admin", {"/public/x"}),
    # Blanks and dots at the end
    ("/admin%20", {"/admin"}),
    ("/admin.", {"/admin"}),
    ("/admin%2e/", {"/admin/"}),
    ("/admin./x", {"/admin/x"}),
    # Not UTF-8, or too much of it
    ("/public/%c0%ae%c0%ae/admin", {"/admin"}),
    ("/public/..%c0%afadmin", {"/admin"}),
    ("/public/..%c1%9cadmin", {"/admin"}),
    ("/public/%e0%80%ae%e0%80%ae/admin", {"/admin"}),
    ("/public/..%f0%80%80%afadmin", {"/admin"}),
    ("/public/%ef%bc%8e%ef%bc%8e/admin", {"/admin"}),
    ("/public/..%ef%bc%8fadmin", {"/admin"}),
    ("/public/%e2%80%a5/admin", {"/admin"}),
    ("/caf%e9/..%2fadmin", {"/admin"}),
    ("/public/%ef%bc%8e%ef%bc%8e/admin/%ff", {"/admin/\udcff"}),
    # A step of one server that another does not take
    ("/public/a%2fb/%2e%2e/%2e%2e/admin", {"/admin", "/public/admin"}),
    ("/public/a%2fb/..%5c..%5cadmin", {"/admin"}),
    ("/public/a/%u002e%u002e/..%2f..%2fadmin", {"/public/admin", "/admin"}),
    ("/public/a%e2%88%95b/%ef%bc%8e%ef%bc%8e/%ef%bc%8e%ef%bc%8e/admin", {"/admin"}),
    # Windows
    ("/public/..%20/admin", {"/admin"}),
    ("/admin:$i30:$INDEX_ALLOCATION/x", {"/admin/x"}),
    ("/admin::$DATA", {"/admin"}),
    # Absolute
    ("http://app.test/admin", {"/admin"}),
    ("HTTP://app.test:80/public/../admin", {"/admin"}),
    ("http://app.test", {"/"}),
    ("http://app.test?/admin", {"/"}),
    ("ws://app.test/admin", {"/admin"}),
]

# Paths that honest clients send, each with its only reading.
HONEST = [
    ("/", "/"),
    ("/index.html", "/index.html"),
    ("/a/b-c_d~e/f.min.js", "/a/b-c_d~e/f.min.js"),
    ("/a/", "/a/"),
    ("/a?b=%2e%2e%2f;c//d#e", "/a"),
    ("/a!$&'()*+,=:@b", "/a!$&'()*+,=:@b"),
    ("/My%20Documents/x", "/My Documents/x"),
    ("/caf%C3%A9", "/café"),
    ("/%E4%BD%A0%E5%A5%BD", "/你好"),
    ("/.well-known/security.txt", "/.well-known/security.txt"),
    ("/a/%7Bid%7D/%5B0%5D", "/a/{id}/[0]"),
]


def read_paths(uri: str) -> set[str] | None:
    """Return the readings; bytes that are no UTF-8 are surrogates."""
    paths = read_target(StatedTarget(b"app.test", uri.encode(), b"GET")).paths
    return None if paths is None else {path.decode("utf-8", "surrogateescape") for path in paths}


@pytest.mark.parametrize(("uri", "expected"), HOSTILE)
def test_hostile_path_has_every_reading(uri: str, expected: set[str]) -> None:
    assert expected <= (read_paths(uri) or set())


@pytest.mark.parametrize(("uri", "path"), HONEST)
def test_honest_path_has_one_reading(uri: str, path: str) -> None:
    assert read_paths(uri) == {path}


@pytest.mark.parametrize("uri", ["http://app.test/public/x", "/public%2fx", "/%70ublic/x"])
def test_reading_as_it_is_remains(uri: str) -> None:
    assert uri in (read_paths(uri) or ())


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "*",
        "public/x",
        "\\public",
        "?x",
        "#x",
        "app.test:443",
        "/a b",
        "/a\tb",
        "/a, /b",
        "/a\r\n/b",
        "/a?b\r\n/c",
        "/a\0",
        "/admin%00/../public/x",
        "/public/x%00.html",
        "/admin%2500/x",
        "/public/.%09./admin",
        "/public/.%0d%0a./admin",
        "/public/x%7f",
        "/public/%c0%80",
        "/public/%u0000",
        "/" * 8000,
        "/%252e" * 3000,
        "/..%2f;/" * 900 + "%00",
        "/public/%" + "25" * 40 + "2e",
        "/public/..%3b/..%252f..%5cadmin%00.js%23/x",
    ],
)
def test_path_without_or_with_too_many_readings_has_none(uri: str) -> None:
    assert read_paths(uri) is None


def test_path_that_is_absent_is_not_read() -> None:
    assert read_target(StatedTarget()) == (None, None, None)


@pytest.mark.parametrize(
    ("stated", "host"),
    [
        (b"app.test", "app.test"),
        (b"APP.Test", "app.test"),
        (b"app.test.", "app.test"),
        (b"app.test:8443", "app.test"),
        (b"app.test.:", "app.test"),
        (b"app.test \t", "app.test"),
        (b"a_b.test", "a_b.test"),
        (b"192.0.2.1:80", "192.0.2.1"),
        (b"[2001:DB8::1]:80", "[2001:db8::1]"),
        (b"", None),
        (b".", None),
        (b":80", None),
        (b"app.test..", None),
        (b"a..test", None),
        (b"app.test, evil.test", None),
        (b"app.test\r\napp.test", None),
        (b"evil.test@app.test", None),
        (b"app.test:80:80", None),
        (b"app.test:x", None),
        (b"app.test/", None),
        (b"app.test\\", None),
        (b"app%2etest", None),
        (b"app.test\0", None),
        (b"caf\xc3\xa9.test", None),
    ],
)
def test_host_has_one_reading_or_none(stated: bytes, host: str | None) -> None:
    assert read_target(StatedTarget(stated, b"/", b"GET")).host == host


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        (b"http://app.test/", "app.test"),
        (b"http://APP.test.:80/", "app.test"),
        (b"http://evil.test/", None),
        (b"http://app.test@evil.test/", None),
        (b"http:///", None),
        (b"http://app.test\\@evil.test/", "app.test"),
    ],
)
def test_absolute_target_of_another_host_makes_it_unknown(uri: bytes, host: str | None) -> None:
    assert read_target(StatedTarget(b"app.test", uri, b"GET")).host == host


@pytest.mark.parametrize(
    ("stated", "methods"),
    [
        (b"GET", ("GET",)),
        (b"GET ", ("GET",)),
        (b"get", ("get", "GET")),
        (b"Post", ("Post", "POST")),
        (b"VERSION-CONTROL", ("VERSION-CONTROL",)),
        (b"", None),
        (b"GET POST", None),
        (b"GET\r\nGET", None),
        (b"GET\0", None),
        (b"G\xc9T", None),
        (b"G" * 65, None),
    ],
)
def test_method_has_readings_or_none(stated: bytes, methods: tuple[str, ...] | None) -> None:
    assert read_target(StatedTarget(b"app.test", b"/", stated)).methods == methods


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/ADMIN", "/admin"),
        ("/É", "/é"),
        ("/\u017f", "/s"),
        ("/K", "/k"),
        ("/ẞ", "/ss"),
        ("/\u0130", "/i"),
        ("/\u0131", "/I"),
    ],
)
def test_paths_that_differ_by_case_fold_to_the_same(one: str, other: str) -> None:
    assert fold(one.encode()) == fold(other.encode())


def test_path_outside_utf8_folds_its_letters() -> None:
    assert fold(b"/A\xe9/\xc5\xbf") == b"/a\xe9/s"


MARKS = ["/", "//", "\\", ".", "..", ";", "#", "?", "\uff0f", "é"]
ENCODED = ["%2e", "%2f", "%25", "%5c", "%3b", "%00", "%09", "%c0%af", "%u002f", "%ff"]
PIECES = st.lists(st.sampled_from([*MARKS, *ENCODED, "admin", "public", "A"]), max_size=12)


@given(pieces=PIECES)
def test_readings_of_a_reading_are_readings(pieces: list[str]) -> None:
    """Whatever a server makes of a path, and the next one of that."""
    paths = read_target(StatedTarget(None, f"/{''.join(pieces)}".encode(), None)).paths
    assert paths is None or len(paths) <= 16
    for path in paths or ():
        if b"?" not in path and not path.startswith(b"//") and all(byte > 32 for byte in path):
            again = read_target(StatedTarget(None, path, None)).paths
            assert again is not None
            assert set(again) <= set(paths or ())
