"""GET /healthz and /readyz, and OpenAI-shaped answers to unknown paths and wrong methods."""

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.endpoints import http
from gateway.errors import TYPES, error_body
from gateway.live import Live


async def healthz(request: Request) -> Response:
    """The process lives; depends on nothing else."""
    return Response(b'{"status":"ok"}', media_type="application/json")


async def readyz(request: Request) -> Response:
    """The config is loaded and calls are taken; 503 while draining, shedding or more than a second late."""
    live: Live = request.app.state.live
    if live.draining:
        return Response(b'{"status":"draining"}', 503, media_type="application/json")
    if live.shed or live.late():
        return Response(b'{"status":"overloaded"}', 503, media_type="application/json")
    return Response(b'{"status":"ready"}', media_type="application/json")


class PostOnly:
    """The other methods of a hot path: a POST is handed to its endpoint by the server itself."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise HTTPException(405, headers={"Allow": "POST"})


async def invalid(request: Request, error: Exception) -> Response:
    """A question to the admin API that is not in order, by its first mistake."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = ".".join(str(step) for step in first["loc"][1:]) or "body"
    body = error_body(f"'{name}': {first['msg']}.", "invalid_request_error", name, "invalid_request")
    return Response(body, 400, {"x-request-id": http.request_id(http.headers_of(request.scope))}, "application/json")


async def refused(request: Request, error: Exception) -> Response:
    """Every path and method that is not served, and every refusal of the admin API, as OpenAI would say it."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    message, code = {
        "Not Found": (f"There is no {path} here.", "not_found"),
        "Method Not Allowed": (f"{request.method} is not allowed on {path}.", "method_not_allowed"),
    }.get(error.detail, (error.detail, None))
    type_ = TYPES.get(error.status_code, "invalid_request_error")
    headers = {"x-request-id": http.request_id(http.headers_of(request.scope)), **(error.headers or {})}
    return Response(error_body(message, type_, None, code), error.status_code, headers, "application/json")
