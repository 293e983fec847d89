"""Whoever answers on a path of the gate, whichever lane the request comes by."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from sidegate.core.session import Session
from sidegate.web.server.header_lines import Roles
from sidegate.web.server.messages import Head, Response
from sidegate.web.server.response_bytes import Reply


class Prefetched(NamedTuple):
    """What a desk has fetched for a request, and for how many seconds that has waited."""

    copy: Session | None  # None: nothing
    waited: float


class RequestHandler(Protocol):
    """Answers for its route: there and, if that ends in a slash, anywhere below."""

    @property
    def route(self) -> str: ...

    @property
    def roles(self) -> Roles:
        """Return which headers make up the Head it wants."""
        ...

    @property
    def cookie(self) -> bytes | None:
        """Return the name of the cookie it looks for."""
        ...

    def try_fast(self, head: Head, fetched: Prefetched | None = None) -> Reply | None:
        """Answer if nobody has to be asked, or with what was fetched. None: `answer` does it."""
        ...

    def prefetch(self, head: Head, then: Callable[[Prefetched], None]) -> bool:
        """Fetch what `at_once` lacks, without a task, and give it to `then`, but after we return.

        False: there is no use in that; `then` is not called.
        """
        ...

    async def answer(self, head: Head, waited: float | None = None) -> Response:
        """Ask whoever has to be asked, and answer.

        `waited`: the seconds it took to fetch what `at_once` could do nothing with; None: nobody
        has fetched anything.
        """
        ...


def handler_for(target: str, among: Sequence[RequestHandler]) -> RequestHandler | None:
    """Return who answers on this request target. The query is the client's and says nothing."""
    path = target.partition("?")[0]
    for each in among:
        if path == each.route.rstrip("/"):
            return each
        if each.route.endswith("/") and path.startswith(each.route):
            return each
    return None
