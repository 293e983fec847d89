"""What the configuration of a gateway depends on: addresses, header names, sizes and timeouts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import Final, Self

from sidegate.core.address import Address, is_host
from sidegate.core.token import TOKEN_PATTERN

_PAGE: Final = 4096
# The largest user id and scopes, encoded, fit: what is stored passes, whatever the limit is now.
_LARGEST_IDENTITY: Final = 10 * 1024
# Bytes of the status line and the headers beside the identity, and some space.
_OTHER_FIELDS: Final = 1024
# Milliseconds that a response may take beyond the deadline: the network, and a busy machine.
_MARGIN: Final = 350
_ORIGIN: Final = re.compile(r"(https?)://(\[.*\]|[^:/]*)(?::([0-9]{1,5}))?/?")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a gateway connects to the application: `http://host:port` or `https://host:port`."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a URL without a path. Raise ValueError with the format."""
        match = _ORIGIN.fullmatch(text)
        port = 0 if match is None else int(match[3] or _DEFAULT_PORTS[match[1]])
        if match is None or not is_host(match[2]) or not 0 < port < 65536:
            raise ValueError("write http://host:port or https://host:port")
        return cls(match[1], match[2].strip("[]"), port)

    @property
    def is_tls(self) -> bool:
        return self.scheme == "https"

    @property
    def address(self) -> str:
        """`host:port`, with brackets around an IPv6 address."""
        return str(Address(self.host, self.port))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.address}"


@dataclass(frozen=True, slots=True)
class HeaderName:
    """The name of a header, in the forms that gateways need."""

    text: str

    @property
    def lower(self) -> str:
        return self.text.lower()

    @property
    def variable(self) -> str:
        """The name as a part of a variable: lower case, `_` for anything but letters and digits."""
        return re.sub(r"[^a-z0-9]", "_", self.lower)

    @property
    def dashed(self) -> str:
        """The name with `-` for anything but letters and digits."""
        return re.sub(r"[^A-Za-z0-9]", "-", self.text)

    @property
    def pattern(self) -> str:
        """A regular expression for the lower-case name with any separator in place of its own.

        Many applications read `X_Auth_User`, and some `X.Auth.User` or `X~Auth~User`, as
        `X-Auth-User`.
        """
        return re.sub(r"[^a-z0-9]", "[^a-z0-9]", self.lower)

    @property
    def variant_pattern(self) -> str:
        """A regular expression for what `pattern` matches, but not the name itself; "" for none."""
        own = re.findall(r"[^a-z0-9]", self.lower)
        words = re.split(r"[^a-z0-9]", self.lower)
        alternatives = []
        for at, separator in enumerate(own):
            classes = ["[^a-z0-9]"] * len(own)
            classes[at] = f"[^a-z0-9{separator}]"
            alternatives.append("".join(chain(*zip(words, (*classes, ""), strict=True))))
        return "|".join(alternatives)

    def list_aliases(self, separators: str) -> Sequence[str]:
        """Return the lower-case name with these as its separators, in every other combination."""
        words = re.split(r"[^a-z0-9]", self.lower)
        combinations = product(separators, repeat=len(words) - 1)
        names = ("".join(chain(*zip(words, (*each, ""), strict=True))) for each in combinations)
        return [name for name in names if name != self.lower]

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One deployment of Sidegate, as a gateway sees it.

    `gates`: the addresses of Sidegate's gate listener, as the gateway reaches them. `listen` and
    `internal` are addresses of the gateway itself, in a whole configuration: of the site, and of
    the proxy to Sidegate that some gateways need. `identity` are the names of the identity headers,
    `signals` those that sessions may be bound to. `cookie`, `bearer`, `basic`, `websocket_protocol`
    and `header` are the enabled sources of a token, `max_identity` the bytes of the identity
    headers in a response, and `deadline` the milliseconds within which Sidegate answers.
    """

    gates: Sequence[Address]
    upstream: Origin
    listen: Address
    internal: Address
    identity: Sequence[HeaderName]
    signals: Sequence[HeaderName]
    cookie: str | None
    bearer: bool
    basic: bool
    websocket_protocol: bool
    header: HeaderName | None
    max_identity: int
    deadline: int

    @property
    def response_timeout(self) -> int:
        """The milliseconds after which a gateway takes a missing response for an outage."""
        return self.deadline + _MARGIN

    @property
    def response_head_size(self) -> int:
        """The bytes of the largest head of a response to `/auth-request`, in whole pages."""
        size = max(self.max_identity, _LARGEST_IDENTITY) + _OTHER_FIELDS
        return -(-size // _PAGE) * _PAGE

    @property
    def token_pattern(self) -> str:
        """A regular expression for the text of a token."""
        return TOKEN_PATTERN.decode("ascii")

    @property
    def carried(self) -> Sequence[HeaderName]:
        """The headers that may contain a token.

        A 200 of `/forward-auth` and `/ext-authz` carries them without it.
        """
        names = ["Cookie"] if self.cookie is not None else []
        names += ["Authorization"] if self.bearer or self.basic else []
        names += ["Sec-WebSocket-Protocol"] if self.websocket_protocol else []
        return (*map(HeaderName, names), *([] if self.header is None else [self.header]))

    @property
    def forwarded(self) -> Sequence[HeaderName]:
        """The headers of a request that a subrequest repeats."""
        return (*self.carried, *self.signals)
