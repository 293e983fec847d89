"""The route of the analytics."""

from http import HTTPStatus

from aiohttp import hdrs, web

from sidegate.services.analytics import Analytics
from sidegate.web.schemas.analytics import build_analytics_document
from sidegate.web.schemas.problems import Problem


class AnalyticsRoutes:
    """Handles requests for the analytics."""

    def __init__(self, analytics: Analytics) -> None:
        self._analytics = analytics

    async def show(self, _request: web.Request) -> web.Response:
        """Return the numbers of active, created and ended sessions.

        As of the last sample: samples are taken in the background, not by this request.
        """
        report = await self._analytics.read_report()
        if report is None:
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "analytics_not_ready",
                detail="no sample was taken yet; an instance takes the first one when it starts",
                headers={hdrs.RETRY_AFTER: "1"},
            )
        return web.json_response(build_analytics_document(report))
