"""The applications behind the two ports: the way of a hot call past the framework, and what every application has."""

from collections.abc import Awaitable, Mapping

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.endpoints import operations
from gateway.live import Live


class Front:
    """The public application: a call to a hot path goes straight to its endpoint, all else through the framework.

    The framework's layers cost as much as everything that the gateway itself does to a call."""

    def __init__(self, hot: Mapping[str, ASGIApp], rest: ASGIApp) -> None:
        self.hot, self.rest = hot, rest

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        endpoint = self.hot.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        return (endpoint or self.rest)(scope, receive, send)


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
