"""The applications behind the two ports: the way of a hot call past the framework, and what every application has."""

from collections.abc import Awaitable, Mapping

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.endpoints import operations
from gateway.front.cycle import Hot
from gateway.live import Live


class Front:
    """The public application: the server hands a POST to a hot path straight to its endpoint, all else is ASGI's.

    The framework's layers and ASGI's messages cost as much as everything that the gateway itself does to a call."""

    def __init__(self, hot: Mapping[str, Hot], rest: ASGIApp) -> None:
        self.hot, self._rest = hot, rest

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self._rest(scope, receive, send)


def application(routes: list[Route], live: Live) -> FastAPI:
    """An application with health and readiness and OpenAI-shaped errors; no docs, no slash redirects."""
    health = [Route("/healthz", operations.healthz), Route("/readyz", operations.readyz)]
    app = FastAPI(
        routes=[*routes, *health],
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: operations.refused, RequestValidationError: operations.invalid},
    )
    app.state.live = live
    return app
