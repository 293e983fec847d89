"""The target of a request in every way that servers are known to read it.

A gateway states host, target and method as the client sent them. The application behind it may
decode the path twice, merge slashes or drop path parameters. Which of these it does is not known
here, so an access rule is looked up for every reading (core/rules.py).

The readings are the closure of a few steps, so their order does not matter. A path with too many of
them, or with a control character in one, has no known reading, and so every rule applies to it.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple
from unicodedata import normalize
from urllib.parse import unquote_to_bytes

# The paths of honest clients have up to eight. Within these bounds, to read a target and to look up
# 20 rules takes two milliseconds at most, and a tenth of one for an honest path.
_MAX_READINGS: Final = 16
_MAX_ODD_SIZE: Final = 2048  # of a path that may have several


class StatedTarget(NamedTuple):
    """What a gateway states of a request; each part as sent, None if it is absent.

    A repeated header has its values joined by CRLF, as in a Head.
    """

    host: bytes | None = None
    uri: bytes | None = None
    method: bytes | None = None


class Readings(NamedTuple):
    """How a target may be read. None: the part is not stated, stated twice, or not readable."""

    host: str | None
    paths: tuple[bytes, ...] | None
    methods: tuple[str, ...] | None


def read_target(stated: StatedTarget) -> Readings:
    """Return every reading of a target. The query takes no part in it."""
    host = None if stated.host is None else _read_host(stated.host)
    uri = None if stated.uri is None else stated.uri.rstrip(b" \t")
    absolute = None if uri is None else _ABSOLUTE.fullmatch(uri)
    if absolute is not None and _read_host(absolute[1]) != host:
        host = None
    return Readings(
        host,
        None if uri is None else _read_paths(uri, absolute),
        None if stated.method is None else _read_methods(stated.method),
    )


def fold(path: bytes) -> bytes:
    """Return a path as a server reads it that does not distinguish case."""
    return _encode(_decode_text(path).translate(_TURKISH).casefold())


# Java compares both without case as `i`. `casefold` keeps one, and makes the other two characters.
_TURKISH: Final = {0x130: "i", 0x131: "i"}


def _decode_text(path: bytes) -> str:
    """Decode UTF-8; other bytes remain what they are, and do not hide what stands beside them."""
    return path.decode("utf-8", "surrogateescape")


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


# Host

_HOST: Final = re.compile(
    rb"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)\.?(?::[0-9]{0,5})?"
)


def _read_host(value: bytes) -> str | None:
    """Return the name in lower case, without the trailing dot and the port."""
    match = _HOST.fullmatch(value.rstrip(b" \t"))
    return None if match is None else match[1].decode("ascii").lower()


# Method

_METHOD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")  # a token (RFC 9110, 5.6.2)


def _read_methods(value: bytes) -> tuple[str, ...] | None:
    """Return the method, and the one in upper case that some servers make of it."""
    value = value.rstrip(b" \t")
    if _METHOD.fullmatch(value) is None:
        return None
    method = value.decode("ascii")
    return tuple(dict.fromkeys((method, method.upper())))


# Path

_ABSOLUTE: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#\\]*)(.*)", re.DOTALL)
# Characters of a URI (RFC 3986), and those that clients should encode, but for blanks and controls.
_TARGET: Final = re.compile(rb"[\x21-\x7e\x80-\xff]+")
# A path without any of these has one reading.
_ODD: Final = re.compile(rb"[^A-Za-z0-9_~!$&'()*+,=:@/.-]|//|/\.|\./|\.\Z|:\$")
# No honest path has one, encoded or not. A NUL ends it for some servers, and others drop line ends.
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
# A client has to encode these, so that encoded and not they are the same.
_ALWAYS_ENCODED: Final = {byte: bytes((byte,)) for byte in (*b' "<>[]^`{|}', *range(0x80, 0x100))}


def _read_paths(uri: bytes, absolute: "re.Match[bytes] | None") -> tuple[bytes, ...] | None:
    if b"\r" in uri:  # stated twice: the query of the first would hide the second
        return None
    path = uri.partition(b"?")[0]
    if absolute is None and path.startswith(b"/") and _ODD.search(path) is None:
        return (path,)
    if len(path) > _MAX_ODD_SIZE or _TARGET.fullmatch(path) is None:
        return None
    starts = [_decode_always_encoded(path)]
    if absolute is not None:
        starts.append(_decode_always_encoded(absolute[2].partition(b"?")[0]) or b"/")
    elif not path.startswith(b"/"):
        return None
    return _close(starts)


def _decode_always_encoded(path: bytes) -> bytes:
    """Decode the characters that are the same encoded or not."""
    return _ESCAPE.sub(lambda escape: _ALWAYS_ENCODED.get(int(escape[1], 16), escape[0]), path)


def _close(starts: list[bytes]) -> tuple[bytes, ...] | None:
    """Return what any sequence of steps makes of the starts; None: too much, or a control."""
    readings = dict.fromkeys(starts)
    waiting = [*readings]
    while waiting:
        for reading in _apply_steps(waiting.pop()):
            if reading not in readings:
                readings[reading] = None
                waiting.append(reading)
                if len(readings) > _MAX_READINGS or _CONTROL.search(reading):
                    return None
    return tuple(readings)


def _apply_steps(path: bytes) -> Iterator[bytes]:
    return (step(path) for step in _STEPS)


def _decode_all_but_slashes(path: bytes) -> bytes:
    """`/a/b%2fc/%2e%2e/d` is `/a/d` for many: with `%2f` kept, it is one segment."""
    return _NO_SLASH.sub(lambda escape: bytes((int(escape[1], 16),)), path)


_NO_SLASH: Final = re.compile(rb"%(?!2[fF])([0-9A-Fa-f]{2})")


def _decode_unicode(path: bytes) -> bytes:
    """Decode `%u002f`, as IIS does. For others it is text."""
    return re.sub(rb"%[uU]([0-9A-Fa-f]{4})", _read_unicode, path)


def _read_unicode(escape: "re.Match[bytes]") -> bytes:
    return chr(int(escape[1], 16)).encode("utf-8", "surrogatepass")


def _cut_at(mark: bytes) -> Callable[[bytes], bytes]:
    """Return a step that drops a query or a fragment."""
    return lambda path: path.partition(mark)[0] or b"/"


def _turn_backslashes(path: bytes) -> bytes:
    return path.replace(b"\\", b"/")


def _remove_parameters(path: bytes) -> bytes:
    """`/a;x=1/b` is `/a/b` for servlets."""
    return re.sub(rb";[^/]*", b"", path)


def _merge_slashes(path: bytes) -> bytes:
    return re.sub(rb"//+", b"/", path)


def _remove_authority(path: bytes) -> bytes:
    """`//host/path` is a reference to another host (RFC 3986, 4.2), whose path is `/path`."""
    return re.sub(rb"\A//[^/]*", b"", path) or b"/"


def _remove_dot_segments(path: bytes) -> bytes:
    """RFC 3986, 5.2.4."""
    if b"/." not in path:
        return path
    kept: list[bytes] = []
    first, *segments = path.split(b"/")
    for segment in segments:
        if segment == b"..":
            kept = kept[:-1]
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        kept.append(b"")
    return b"/".join((first, *kept)) or b"/"


def _trim_segments(path: bytes) -> bytes:
    """`/admin.` and `/admin%20` are `/admin` for Windows."""
    return re.sub(rb"(?<=[^/. ])[. ]+(?=/|\Z)", b"", path)


def _trim_blanks(path: bytes) -> bytes:
    """`.. ` is `..`."""
    return re.sub(rb"(?<=[^/ ]) +(?=/|\Z)", b"", path)


def _remove_streams(path: bytes) -> bytes:
    """`/admin:$i30:$INDEX_ALLOCATION` is `/admin` for NTFS."""
    return re.sub(rb":[^/:]*:\$[^/]*", b"", path)


_OVERLONG: Final = re.compile(
    rb"[\xc0\xc1][\x80-\xbf]|\xe0[\x80\x81][\x80-\xbf]|\xf0\x80[\x80\x81][\x80-\xbf]"
)


def _decode_overlong(path: bytes) -> bytes:
    """Decode ASCII in two to four bytes of UTF-8, which RFC 3629 forbids."""
    if path.isascii():
        return path
    return _OVERLONG.sub(lambda match: bytes((_read_overlong(match[0]),)), path)


def _read_overlong(encoded: bytes) -> int:
    return (encoded[-2] & 0x01) << 6 | encoded[-1] & 0x3F


# Slashes of division and fractions, and backslashes of sets.
_BEST_FIT: Final = {0x2044: "/", 0x2215: "/", 0x2216: "\\", 0x29F5: "\\"}


def _normalize(path: bytes) -> bytes:
    """A full-width `/` or `.` is an ASCII one in NFKC."""
    return path if path.isascii() else _encode(normalize("NFKC", _decode_text(path)))


def _replace_best_fit(path: bytes) -> bytes:
    """Others are ASCII in Windows' code pages."""
    return path if path.isascii() else _encode(_decode_text(path).translate(_BEST_FIT))


_STEPS: Final[tuple[Callable[[bytes], bytes], ...]] = (
    unquote_to_bytes,
    _decode_all_but_slashes,
    _decode_unicode,
    _cut_at(b"?"),
    _cut_at(b"#"),
    _turn_backslashes,
    _remove_parameters,
    _merge_slashes,
    _remove_authority,
    _remove_dot_segments,
    _trim_segments,
    _trim_blanks,
    _remove_streams,
    _decode_overlong,
    _normalize,
    _replace_best_fit,
)
