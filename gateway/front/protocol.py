"""uvicorn as our front: what it does not do by itself. A client that left cancels its call; a broken stream closes.

An offer of another protocol is declined by answering in HTTP/1.1 (RFC 9110, 7.8). A head has a bound, one host and each
of our headers once; what comes behind a body is no header. A refusal never lands in the midst of another answer.

Source: uvicorn 0.54 `protocols/http/httptools_impl.py`; the hooks below are all that is used of its inside."""

import asyncio
import re
import urllib.parse
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache

import httptools
from uvicorn._types import ASGIVersions
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway.errors import error_body
from gateway.front.cycle import Cancellable, Cycle, Hot

MAX_HEAD_BYTES = 65536
"""What a request's head may hold; and what may come in a row of which nothing comes: a trailer, say."""
MAX_HEADERS = 200
LONGEST_HOST = 300
"""Bytes; names of DNS have 253 at the most."""
ONCE = (b"host", b"authorization", b"x-request-id", b"x-arriero-labels", b"x-arriero-session", b"x-arriero-timeout-s")
"""Of these two would be a choice, and whoever stands before us may have made the other one."""
_HOST = re.compile(rb"(?:[\w.~!$&'()*+;=%-]*|\[[0-9A-Fa-f:.]+\])(?::\d{0,5})?")
UPGRADE_HEADERS = (b"upgrade", b"connection", b"http2-settings")
UNWANTED_S, UNWANTED = 1.0, 16
"""For so long, and so many at once, connections beyond the bound are kept to be told that there is no room."""
MAX_KNOWN_URL = 128
"""Bytes of a URL that is kept once it was read: nearly every call comes to one of a few."""
ASGI: ASGIVersions = {"version": "3.0", "spec_version": "2.3"}


def _target(url: bytes) -> tuple[str, bytes, bytes]:
    """Path, path as it came, and query."""
    parts = httptools.parse_url(url)
    return urllib.parse.unquote(parts.path.decode("ascii")), parts.path, parts.query or b""


_known_target = lru_cache(maxsize=256)(_target)


@lru_cache(maxsize=256)
def _is_host(text: bytes) -> bool:
    return _HOST.fullmatch(text) is not None


class Refused(Exception):
    """A head that is not taken: HTTP status and message."""


class Protocol(HttpToolsProtocol):
    """One client connection. A POST to one of the app's `hot` paths goes there as a Cycle, all else to the app."""

    task: Cancellable | None = None
    in_head = False
    head_bytes = 0
    idle_since = 0.0
    unwanted = False
    hot: Mapping[str, Hot] = {}
    cycle: Cycle | RequestResponseCycle  # type: ignore[assignment]
    pipeline: deque[tuple[Cycle | RequestResponseCycle, Hot | None]]  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.hot = getattr(self.app, "hot", {})
        beyond = 0 if self.limit_concurrency is None else len(self.connections) - self.limit_concurrency
        if beyond > 0:
            self.unwanted = True
            self.loop.call_later(UNWANTED_S if beyond <= UNWANTED else 0.0, transport.abort)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self.head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            refused = error.__context__
            status, message = refused.args if isinstance(refused, Refused) else (400, f"This is no HTTP: {error}.")
            self._refuse(status, message)
        except httptools.HttpParserUpgrade as offer:
            self._decline(data[offer.args[0] :])
        else:
            if self.head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, f"The request's head is larger than {MAX_HEAD_BYTES} bytes, the limit here.")

    def _decline(self, rest: bytes) -> None:
        """Reads the request again without its offer; the parser would take its body for the other protocol."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(400, "This is no proxy.")
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._refuse(400, "An offer of another protocol must wait for the answer before it.")
            return
        lines = [method + b" " + self.url + b" HTTP/" + self.parser.get_http_version().encode()]
        lines += [name + b": " + value for name, value in self.headers if name not in UPGRADE_HEADERS]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([*lines, b"", rest]))

    def _refuse(self, status: int, message: str) -> None:
        """Of what came last no request can be made: it is said when that is what is to be answered now."""
        cycle = self.cycle
        if cycle is None or (cycle.response_complete and not cycle.more_body):
            self.send_refusal(status, message)
        elif self.pipeline or not cycle.more_body:
            cycle.keep_alive = False  # the answers to what came before it are the last ones here
        elif cycle.response_started:
            self.transport.abort()
        else:
            self.send_refusal(status, message)

    def on_message_begin(self) -> None:
        self.url, self.headers = b"", []
        self.expect_100_continue = False
        self.in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_head:
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        version = self.parser.get_http_version()
        found = self._checked(version)
        self.in_head = False
        self.head_bytes = 0
        if not self.parser.should_upgrade():
            self._begin(found, version)

    def _checked(self, version: str) -> Mapping[bytes, bytes]:
        """The headers by name. Raises Refused."""
        headers = self.headers
        if version not in ("1.1", "1.0"):
            raise Refused(505, f"HTTP/{version} is not spoken here: send HTTP/1.1.")
        if (
            self.head_bytes > MAX_HEAD_BYTES
            and len(self.url) + sum(len(n) + len(v) for n, v in headers) > MAX_HEAD_BYTES
        ):
            raise Refused(431, f"The request's head is larger than {MAX_HEAD_BYTES} bytes, the limit here.")
        if len(headers) > MAX_HEADERS:
            raise Refused(431, f"The request has {len(headers)} headers, more than {MAX_HEADERS}, the limit here.")
        found = dict(headers)
        if len(found) < len(headers):
            names = [name for name, _ in headers]
            for name in ONCE:
                if names.count(name) > 1:
                    raise Refused(400, f"The header '{name.decode()}' stands twice.")
        host = found.get(b"host")
        if host is None and version == "1.1":
            raise Refused(400, "The header 'host' is missing.")
        if host and not (len(host) <= LONGEST_HOST and _is_host(host)):
            raise Refused(400, "The header 'host' is no host and port.")
        return found

    def _begin(self, headers: Mapping[bytes, bytes], version: str) -> None:
        """Starts to answer, or puts the request behind the one that is being answered."""
        method = self.parser.get_method()
        path, raw_path, query = _target(self.url) if len(self.url) > MAX_KNOWN_URL else _known_target(self.url)
        keep_alive = self.parser.should_keep_alive() and version != "1.0"
        before, endpoint = self.cycle, self.hot.get(path) if method == b"POST" else None
        if endpoint is None:
            self.cycle = self._asgi_cycle(method, (path, raw_path, query), keep_alive=keep_alive)
        else:
            self.cycle = Cycle(self, headers, keep_alive=keep_alive, expects_100=self.expect_100_continue)
        if before is None or before.response_complete:
            self._start(self.cycle, endpoint)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, endpoint))

    def _asgi_cycle(self, method: bytes, target: tuple[str, bytes, bytes], *, keep_alive: bool) -> RequestResponseCycle:
        path, raw_path, query = target
        return RequestResponseCycle(
            scope={
                "type": "http",
                "asgi": ASGI,
                "http_version": self.parser.get_http_version(),
                "method": method.decode("ascii"),
                "scheme": self.scheme or "http",
                "path": path,
                "raw_path": raw_path,
                "query_string": query,
                "root_path": "",
                "headers": self.headers,
                "client": self.client,
                "server": self.server,
                "state": {},
                "extensions": {},
            },
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )

    def _start(self, cycle: Cycle | RequestResponseCycle, endpoint: Hot | None) -> None:
        if isinstance(cycle, RequestResponseCycle):
            task = self.loop.create_task(cycle.run_asgi(self.app))
        else:
            assert endpoint is not None
            task = cycle.task = self.loop.create_task(endpoint(cycle))
            task.add_done_callback(cycle.ended)
            return
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def on_body(self, body: bytes) -> None:
        self.head_bytes = 0
        if isinstance(self.cycle, RequestResponseCycle):
            super().on_body(body)
        elif not self.parser.should_upgrade() and not self.cycle.response_complete:
            self.cycle.add_body(body)

    def on_message_complete(self) -> None:
        self.head_bytes = 0
        if self.parser.should_upgrade():
            return
        if isinstance(self.cycle, RequestResponseCycle):
            super().on_message_complete()
        elif not self.cycle.response_complete:
            self.cycle.end_body()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.task is not None:
            self.task.cancel()

    def on_response_complete(self) -> None:
        """As uvicorn's, but that the timer of an idle connection is left to run from call to call."""
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start(*self.pipeline.pop())
            return
        self.idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_again_in(self.timeout_keep_alive)

    def _unset_keepalive_if_required(self) -> None:
        if self.transport.is_closing():
            super()._unset_keepalive_if_required()

    def timeout_keep_alive_handler(self) -> None:
        """Closes a connection that was idle for long enough; looks again later at one that was not."""
        self.timeout_keep_alive_task = None
        left_s = self.idle_since + self.timeout_keep_alive - self.loop.time()
        if self.cycle is not None and not self.cycle.response_complete:
            self._look_again_in(self.timeout_keep_alive)
        elif left_s > 0.001:
            self._look_again_in(left_s)
        else:
            super().timeout_keep_alive_handler()

    def _look_again_in(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def cancel_when_lost(self, task: Cancellable | None) -> None:
        """What is answering on this connection; None when it no longer minds."""
        self.task = task

    def read_on(self) -> None:
        """After a whole request: uvicorn stops reading at 64 KiB of body and would not see that the client left."""
        if not self.pipeline:
            self.flow.resume_reading()

    @property
    def lost(self) -> bool:
        return self.transport.is_closing()

    @contextmanager
    def at_most(self, seconds: float) -> Iterator[None]:
        """The connection is cut if the block has not ended by then: its peer does not read."""
        timer = self.loop.call_later(seconds, self.transport.abort)
        try:
            yield
        finally:
            timer.cancel()

    def send_refusal(self, status: int, message: str) -> None:
        """An answer to what is no request; the connection ends with it."""
        body = error_body(message, "invalid_request_error", None, "invalid_request")
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()
