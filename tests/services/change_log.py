"""A change log in memory, for faults that a database cannot produce on demand."""

from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID, uuid4

from sidegate.core.change_log import ChangeCursor, ChangedSession, ChangePage, Mark
from sidegate.core.digest import Digest
from sidegate.core.errors import PositionLost, StoreUnavailable, TooManyChanges
from sidegate.core.session import Session, SessionId
from sidegate.core.snapshot import Snapshot
from tests.support.replace import replace


async def do_nothing() -> None:
    """Be the hook of a test that has none."""


class FakeChangeLog:
    """A ChangeLog in which each change and each mark is a transaction of its own.

    `before_page` is awaited before a page is listed, `before_mark` before a mark is stored.
    """

    def __init__(self) -> None:
        self.changes: dict[SessionId, ChangedSession] = {}
        self.unreadable: dict[Digest, int] = {}  # with the transaction
        self.marks: set[UUID] = set()
        self.system = "1"
        self.down = False
        self.read_only = False
        self.endless = False  # each page is followed by another
        self.has_too_many = False
        self.lost: PositionLost | None = None  # raised for every mark
        self.questions = 0
        self.before_page: Callable[[], Awaitable[object]] = do_nothing
        self.before_mark: Callable[[], Awaitable[object]] = do_nothing
        self.revoked_again: list[Session] = []
        self._next_xid = 100

    def commit(self, session: Session, *rotated: Digest) -> Session:
        """Change a session, and return it as the database does."""
        session = replace(session, changed_xid=self._next_xid)
        self.changes.pop(session.id, None)  # the latest change comes last
        self.changes[session.id] = ChangedSession(session, rotated)
        self._next_xid += 1
        return session

    def commit_unreadable(self, digest: Digest) -> None:
        """Change the session with this digest, so that its record cannot be read."""
        self.unreadable[digest] = self._next_xid
        self._next_xid += 1

    @property
    def position(self) -> Mark:
        return Mark(Snapshot(self._next_xid, self._next_xid), self.system)

    async def read_position(self) -> Mark:
        await self._answer()
        return self.position

    async def list_changes(
        self,
        since: Mark,
        *,
        limit: int,
        after: ChangeCursor | None = None,
        created: bool = False,
        store_mark: bool = False,
    ) -> ChangePage:
        await self.before_page()
        if store_mark:
            await self.before_mark()
        if self.lost is not None:
            raise self.lost
        await self._answer(writes=store_mark)
        if since.system != self.system or (since.id is not None and since.id not in self.marks):
            raise PositionLost("the mark is not stored")
        if self.has_too_many:
            raise TooManyChanges("in this test")
        ids = self._list_ids(since, created=created) if after is None else after.ids
        page = [self.changes[each] for each in ids[:limit] if each in self.changes]
        unreadable = [each for each, xid in self.unreadable.items() if not since.snapshot.sees(xid)]
        is_last = len(ids) <= limit and not self.endless
        return ChangePage(
            self._store_position() if store_mark else self.position,
            has_changed=bool(self._list_ids(since, created=True) or unreadable),
            changes=page,
            unreadable=unreadable if after is None else (),
            next=None if is_last else ChangeCursor(ids[limit:]),
        )

    async def add_mark(self) -> Mark:
        await self.before_mark()
        await self._answer(writes=True)
        return self._store_position()

    async def revoke_again(self, tombstones: Sequence[Session]) -> list[ChangedSession]:
        await self._answer(writes=True)
        self.revoked_again += tombstones
        return [ChangedSession(tombstone) for tombstone in tombstones]

    def _list_ids(self, since: Mark, *, created: bool) -> tuple[SessionId, ...]:
        changed = (each.session for each in self.changes.values())
        return tuple(
            session.id
            for session in changed
            if not since.snapshot.sees(session.changed_xid) and (created or session.version > 1)
        )

    def _store_position(self) -> Mark:
        id_ = uuid4()
        mark = replace(self.position, id=id_)
        self.marks.add(id_)
        self._next_xid += 1
        return mark

    async def _answer(self, *, writes: bool = False) -> None:
        self.questions += 1
        if self.down or (writes and self.read_only):
            raise StoreUnavailable("database", "unavailable in this test")
