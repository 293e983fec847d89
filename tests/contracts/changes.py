"""Read the change log in contract tests."""

from sidegate.core.change_log import ChangedSession, Mark
from sidegate.core.protocols import ChangeLog
from sidegate.core.session import Session


async def list_all_changes(
    log: ChangeLog, since: Mark, *, limit: int = 100, created: bool = False
) -> list[ChangedSession]:
    """Return the changes of all pages."""
    page = await log.list_changes(since, limit=limit, created=created)
    changes = list(page.changes)
    while page.next is not None:
        page = await log.list_changes(since, limit=limit, after=page.next, created=created)
        changes += page.changes
    return changes


async def list_changed_sessions(log: ChangeLog, since: Mark) -> list[Session]:
    """Return the changed sessions of all pages, without those that were only created."""
    return [changed.session for changed in await list_all_changes(log, since)]
