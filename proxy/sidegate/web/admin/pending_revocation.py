"""The response to a revocation that is in effect but not persisted yet: 202."""

from aiohttp import web
from aiohttp.typedefs import Handler

from sidegate.core.errors import RevocationPending
from sidegate.web.admin.change_logging import log_change
from sidegate.web.schemas.documents import PendingDocument


@web.middleware
async def respond_pending(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Respond with 202 and log the change if the handler raises RevocationPending."""
    try:
        return await handler(request)
    except RevocationPending:
        log_change(request, "revocation.pending", path=request.path)
        document: PendingDocument = {"pending": True}
        return web.json_response(document, status=202)
