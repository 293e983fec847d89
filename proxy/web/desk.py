"""Whoever answers on a path of the gate, whichever lane the request comes by."""

from collections.abc import Sequence
from typing import Protocol

from proxy.web.lines import Roles
from proxy.web.messages import Answer, Head
from proxy.web.octets import Reply


class Desk(Protocol):
    """Answers for its route: there and, if that ends in a slash, anywhere below."""

    @property
    def route(self) -> str: ...

    @property
    def roles(self) -> Roles:
        """Return which headers make up the Head it wants."""
        ...

    def at_once(self, head: Head) -> Reply | None:
        """Answer if nobody has to be asked. None: `answer` does it."""
        ...

    async def answer(self, head: Head) -> Answer: ...


def desk_for(target: str, among: Sequence[Desk]) -> Desk | None:
    """Return who answers on this request target. The query is the client's and says nothing."""
    path = target.partition("?")[0]
    for each in among:
        if path == each.route.rstrip("/"):
            return each
        if each.route.endswith("/") and path.startswith(each.route):
            return each
    return None
