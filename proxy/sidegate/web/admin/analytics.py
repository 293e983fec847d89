"""The analytics, as of the last sample."""

from http import HTTPStatus

from aiohttp import hdrs, web

from sidegate.services.analytics import Analytics
from sidegate.web.schemas.analytics import analytics_document
from sidegate.web.schemas.problems import Problem


class AnalyticsRoutes:
    """From requests to the samples, and back."""

    def __init__(self, analytics: Analytics) -> None:
        self._analytics = analytics

    async def show(self, _request: web.Request) -> web.Response:
        """Show how many sessions are active, and how many began and ended, as of the last sample.

        Asks for no session: samples are taken behind everybody's back.
        """
        report = await self._analytics.report()
        if report is None:
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "not_sampled_yet",
                "nobody has counted the sessions yet: a server does so when it starts",
                headers={hdrs.RETRY_AFTER: "1"},
            )
        return web.json_response(analytics_document(report))
