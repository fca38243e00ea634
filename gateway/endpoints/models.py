"""GET /v1/models and /v1/models/{id}: the routes this key may use, as OpenAI lists models."""

from collections.abc import Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway import auth
from gateway.endpoints import http
from gateway.errors import Answerable
from gateway.lane import Route
from gateway.parts import Current
from gateway.types import Tenant

_encode = msgspec.json.Encoder().encode


class Models:
    """`began` is when this gateway started, in seconds since the epoch: every model's `created`."""

    def __init__(self, current: Current, began: int) -> None:
        self.current, self.began = current, began

    async def list(self, request: Request) -> Response:
        """Every route and alias the key may use."""
        try:
            tenant = self._tenant(request)
        except Answerable as error:
            return _refused(request, error)
        names = self.current.parts.fleet.names.items()
        data = [self._model(name, route) for name, route in names if auth.allows(tenant, route.name)]
        return _json(request, 200, _encode({"object": "list", "data": data}))

    async def one(self, request: Request) -> Response:
        """One of them, by name or alias."""
        name = request.path_params["name"]
        try:
            tenant = self._tenant(request)
            route = self.current.parts.fleet.route(name, tenant)
            auth.authorize(tenant, route.name)
        except Answerable as error:
            return _refused(request, error)
        return _json(request, 200, _encode(self._model(name, route)))

    def _tenant(self, request: Request) -> Tenant:
        return self.current.parts.keyring.tenant(http.headers_of(request.scope).get(b"authorization"))

    def _model(self, name: str, route: Route) -> Mapping[str, object]:
        return {"id": name, "object": "model", "created": self.began, "owned_by": "arriero", "root": route.name}


def _json(request: Request, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Response:
    id_ = http.request_id(http.headers_of(request.scope))
    leaving = {"connection": "close"} if request.app.state.live.draining else {}
    return Response(body, status, {"x-request-id": id_, **leaving, **(headers or {})}, "application/json")


def _refused(request: Request, error: Answerable) -> Response:
    return _json(request, error.status, error.body(), error.headers())
