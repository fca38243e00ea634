"""GET /healthz and /readyz, and OpenAI-shaped answers to unknown paths and wrong methods."""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import error_body
from gateway.live import Live


async def healthz(request: Request) -> Response:
    """The process lives; depends on nothing else."""
    return Response(b'{"status":"ok"}', media_type="application/json")


async def readyz(request: Request) -> Response:
    """The config is loaded and calls are taken; 503 while draining."""
    live: Live = request.app.state.live
    if live.draining:
        return Response(b'{"status":"draining"}', 503, media_type="application/json")
    return Response(b'{"status":"ready"}', media_type="application/json")


async def not_found(request: Request, error: Exception) -> Response:
    """Every path and method that is not served, as OpenAI would say it."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    path = request.url.path[:200]
    if status == 405:
        body = error_body(
            f"{request.method} is not allowed on {path}.", "invalid_request_error", None, "method_not_allowed"
        )
    else:
        body = error_body(f"There is no {path} here.", "invalid_request_error", None, "not_found")
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    return Response(body, status, headers, "application/json")
