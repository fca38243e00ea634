"""The control port: sets and shows behaviour, shows the record of calls, resets. JSON over HTTP, no credentials."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgspec

from sandbox.behaviour import KINDS, BehaviourError
from sandbox.calls import CallLog, CallRecord
from sandbox.cloud import json_reply, refused
from sandbox.http1 import Connection, segments
from sandbox.playback import Playback
from sandbox.server import CloudServer
from sandbox.types import Json, Refusal, Reply, Request


class Box(Protocol):
    """What the control port governs."""

    @property
    def servers(self) -> Mapping[str, CloudServer]: ...

    @property
    def log(self) -> CallLog: ...

    async def change(self, cloud: str, fields: Mapping[str, Json]) -> None: ...

    async def clear(self) -> None: ...


class Control:
    """Answers on the first port."""

    def __init__(self, box: Box, now: Callable[[], float]) -> None:
        self._box, self._now = box, now

    async def serve(self, connection: Connection, request: Request) -> None:
        try:
            reply = await self._answer(request)
        except Refusal as refusal:
            reply = refused(refusal)
        record = CallRecord(
            n=0,
            cloud="",
            method="",
            path="",
            headers={},
            body="",
            body_bytes=0,
            began=self._now(),
            connection=connection.number,
        )
        await Playback(connection, reply, (0.0, 0.0, 0.0), record, False).play()

    async def _answer(self, request: Request) -> Reply:
        parts = segments(request.path)
        if parts[0] != "_sandbox" or len(parts) > 2:
            raise _no(404, f"no such path: {request.path}; try GET /_sandbox")
        table: Mapping[str, Callable[[str, Request], Awaitable[Reply]]]
        if len(parts) == 1:
            table = {"GET": self._overview, "DELETE": self._reset_all}
        elif parts[1] == "calls":
            table = {"GET": self._calls, "DELETE": self._forget}
        else:
            if parts[1] not in self._box.servers:
                raise _no(404, f"unknown cloud {parts[1]!r}; clouds are: {', '.join(self._box.servers)}")
            table = {"GET": self._show, "PUT": self._set, "DELETE": self._reset}
        if request.method not in table:
            raise _no(405, f"{request.method} is not for {request.path}; use {' or '.join(table)}")
        return await table[request.method](parts[-1], request)

    async def _overview(self, _: str, request: Request) -> Reply:
        clouds = {
            name: self._box.servers[name].cloud.url(self._box.servers[name].origin()) for name in self._box.servers
        }
        faults = {kind: {"does": words, "takes": list(options)} for kind, (words, options) in KINDS.items()}
        return json_reply({"clouds": clouds, "faults": faults})

    async def _show(self, cloud: str, request: Request) -> Reply:
        server = self._box.servers[cloud]
        behaviour = msgspec.to_builtins(server.site.behaviour)
        url = server.cloud.url(server.origin())
        return json_reply(
            {"cloud": cloud, "url": url, "running": server.site.running, "struck": server.site.struck(), **behaviour}
        )

    async def _set(self, cloud: str, request: Request) -> Reply:
        try:
            fields = msgspec.json.decode(request.body, type=dict[str, Json])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _no(400, f"the body must be a JSON object: {error}") from error
        try:
            await self._box.change(cloud, fields)
        except BehaviourError as error:
            raise _no(400, str(error)) from error
        return await self._show(cloud, request)

    async def _reset(self, cloud: str, request: Request) -> Reply:
        await self._box.change(cloud, dict.fromkeys(self._box.servers[cloud].site.behaviour.__struct_fields__))
        return await self._show(cloud, request)

    async def _reset_all(self, _: str, request: Request) -> Reply:
        await self._box.clear()
        return json_reply({"reset": list(self._box.servers)})

    async def _calls(self, _: str, request: Request) -> Reply:
        cloud = request.query.get("cloud")
        if cloud is not None and cloud not in self._box.servers:
            raise _no(404, f"unknown cloud {cloud!r}; clouds are: {', '.join(self._box.servers)}")
        after = request.query.get("after", "0")
        if not after.isdecimal():
            raise _no(400, "after is the number `n` of a call")
        log = self._box.log
        return json_reply(
            {"calls": log.listed(cloud, int(after)), "total": log.total, "dropped": log.dropped, "now": self._now()}
        )

    async def _forget(self, _: str, request: Request) -> Reply:
        self._box.log.clear()
        return json_reply({"calls": []})


def _no(status: int, message: str) -> Refusal:
    return Refusal(status, {"error": message})
