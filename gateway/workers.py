"""`arriero serve --workers N`: so many processes on one port, each a gateway of its own; Redis makes them one.

Rule 1. The kernel spreads connections (SO_REUSEPORT); worker 0 has the admin port, the others the ones after it.
Rule 2. Signals go to every worker. One that dies is started again, but not more often than once a second.
"""

import os
import signal
import socket
import time
from collections.abc import Callable

from gateway.config.document import Config
from gateway.errors import ConfigError
from gateway.serve import Listen, bind, say

AGAIN_S = 1.0
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def check(config: Config, count: int) -> None:
    """Raises ConfigError for workers that could not share what they must."""
    if config.store.redis is None:
        raise ConfigError(
            "--workers",
            f"{count} workers share limits, budgets and what they learn of clouds through Redis: "
            "say `store: {redis: env:REDIS_URL}`, or run one",
        )
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigError("--workers", "this system cannot share a port between processes: run one worker")


class Workers:
    """The processes of one gateway. `work` is what each does with its place to listen; it gives the exit code."""

    def __init__(self, listen: Listen, count: int, work: Callable[[Listen, int], int]) -> None:
        self._listen, self._count, self._work = listen, count, work
        self._running: dict[int, tuple[int, float]] = {}
        self._stopping = False

    def run(self) -> int:
        """Until all have ended; the worst exit code."""
        with bind(self._listen.host, self._listen.port, "", shared=True) as held:  # ours, whoever comes and goes
            self._listen = Listen(
                self._listen.host, held.getsockname()[1], self._listen.admin_host, self._listen.admin_port, shared=True
            )
            for which in PASSED_ON:
                signal.signal(which, self._pass_on)
            for number in range(self._count):
                self._start(number)
            return self._wait()

    def _start(self, number: int) -> None:
        pid = os.fork()
        if pid == 0:
            for which in PASSED_ON:
                signal.signal(which, signal.SIG_DFL)
            code = 1
            try:
                code = self._work(self._place(number), number)
            except ConfigError as error:
                say(f"arriero: {error}")
                code = 2
            finally:
                os._exit(code)
        self._running[pid] = number, time.monotonic()

    def _place(self, number: int) -> Listen:
        one = self._listen
        admin_port = one.admin_port + number if one.admin_port else 0
        return Listen(one.host, one.port, one.admin_host, admin_port, shared=True)

    def _pass_on(self, which: int, _: object) -> None:
        self._stopping = self._stopping or which != signal.SIGHUP
        for pid in self._running:
            os.kill(pid, which)

    def _wait(self) -> int:
        worst = 0
        while self._running:
            pid, status = os.wait()
            number, began = self._running.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            if self._stopping or code == 2:  # a config that cannot run is no better the next time
                self._stopping = True
                told = -code in PASSED_ON  # it had only just begun, and took the signal at its word
                worst = max(worst, 0 if told else abs(code))
                if code == 2:
                    self._pass_on(signal.SIGTERM, None)
                continue
            time.sleep(max(0.0, AGAIN_S - (time.monotonic() - began)))
            if not self._stopping:
                self._start(number)
        return worst
