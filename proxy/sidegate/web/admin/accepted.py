"""A revocation that holds and is not written down yet: 202, and a line in the log."""

from aiohttp import web
from aiohttp.typedefs import Handler

from sidegate.core.errors import RevocationPending
from sidegate.web.admin.audit_lines import log_change
from sidegate.web.schemas.documents import PendingDocument


@web.middleware
async def accepted(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 202 where a handler was told that a revocation is pending."""
    try:
        return await handler(request)
    except RevocationPending:
        log_change(request, "revocation.pending", path=request.path)
        document: PendingDocument = {"pending": True}
        return web.json_response(document, status=202)
