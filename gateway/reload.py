"""The config file read again: on SIGHUP and when it changed. Putting the new config in force is succession.py's.

Rule 1. One reload at a time; what is asked for meanwhile is one more after it.
Rule 2. A file that changed is read when it has stayed the same for a look: who writes it may be half-way.
Rule 3. Whatever goes wrong, the config in force stays; the log and the metrics say so, and it is tried again.
"""

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import Gauge

from gateway.app import Gateway
from gateway.config import loading
from gateway.config.document import Config
from gateway.errors import ConfigError
from gateway.parts import Parts

LOOK_S = 1.0
RETRY_S = 5.0
"""How often a file that could not be put in force is tried again: what it lacked may have come."""
ASKED, KEY, CERTIFICATE = "asked", "a key changed", "a certificate changed"
NEEDS_RESTART = ("store", "telemetry")
"""Sections that a process takes once, when it starts."""


class ConfigFile:
    """The file, and whether it changed since it was read. Links are followed, so that a ConfigMap's swap is seen."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: object = None
        self._seen: object = None

    def read(self) -> Config:
        """Raises ConfigError."""
        self._read = self._seen = self._stamp()
        return loading.read(self.path)

    def changed(self) -> bool:
        """Whether it is another file than was read, and the same as at the last look."""
        last, self._seen = self._seen, self._stamp()
        return last == self._seen != self._read

    def _stamp(self) -> object:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class Reloader:
    """Keeps one gateway on what its file says. Owns what the metrics say of the config."""

    def __init__(
        self,
        gateway: Gateway,
        file: ConfigFile | None,
        check: Callable[[Parts], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.gateway, self.file, self.check, self.clock = gateway, file, check, clock
        self._asked = asyncio.Event()
        self._failed_at: float | None = None
        self._tried_at = 0.0
        self._reason = ""
        self._keys = self._key_texts()
        registry = gateway.metrics.registry
        self._good = Gauge("arriero_config_last_reload_successful", "0: the file is not in force.", registry=registry)
        self._since = Gauge(
            "arriero_config_last_reload_success_timestamp_seconds", "Since when the config is.", registry=registry
        )
        stale = Gauge("arriero_config_stale_seconds", "How long the file has not been in force.", registry=registry)
        self._restart = Gauge("arriero_config_needs_restart", "1: part of it needs a restart.", registry=registry)
        stale.set_function(lambda: 0.0 if self._failed_at is None else self.clock() - self._failed_at)
        self._good.set(1)
        self._since.set_to_current_time()

    def ask(self) -> None:
        """Reads the file again, changed or not."""
        self._asked.set()

    async def run(self) -> None:
        """Looks once a second, until it is cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._asked.wait()
            except TimeoutError:
                why = await asyncio.to_thread(self._look)
            else:
                self._asked.clear()
                why = ASKED
            if why:
                await self._reload(why)

    def _look(self) -> str:
        """Why to reload now; "" when there is no reason. In a thread: a disk may be slow."""
        if self.gateway.live.draining:
            return ""
        if self._key_texts() != self._keys:
            return KEY
        if self._failed_at is None and self.gateway.fleet.accounts.outdated():
            return CERTIFICATE
        if self.file is not None and self.file.changed():
            return "the file changed"
        if self._failed_at is not None and self.clock() - self._tried_at >= RETRY_S:
            return "tried again"
        return ""

    async def _reload(self, why: str) -> None:
        self._tried_at = self.clock()
        try:
            await (self._renew(why) if why in (KEY, CERTIFICATE) else self._read_again(why))
        except ConfigError as error:
            self._fail(why, str(error))
        except Exception as error:  # noqa: BLE001  (the outermost place: no config may end a process that serves)
            self._fail(why, f"a bug of ours: {type(error).__name__}")

    async def _renew(self, why: str) -> None:
        """The config in force, made anew of what is in its files now; also while the config file itself is broken."""
        self._keys = self._key_texts()
        await self.gateway.reload(self.gateway.config, self.check)
        self.gateway.metrics.reloads.labels("ok").inc()
        self.gateway.log.write("reload", result="ok", why=why)

    async def _read_again(self, why: str) -> None:
        gateway, log = self.gateway, self.gateway.log
        if gateway.live.draining or self.file is None:
            reason = "taking leave" if gateway.live.draining else "the config was made from no file"
            log.write("reload", result="refused", why=why, error=reason)
            return
        before = gateway.config
        written = await asyncio.to_thread(self.file.read)
        config, waiting = in_force(before, written)
        with loading.naming(str(self.file.path)):
            await gateway.reload(config, self.check)
        self._keys = self._key_texts()
        self._failed_at, self._reason = None, ""
        self._good.set(1)
        self._since.set_to_current_time()
        self._restart.set(bool(waiting))
        gateway.metrics.reloads.labels("ok").inc()
        log.write("reload", result="ok", why=why, **changes(before, config), needs_restart=", ".join(waiting) or None)

    def _fail(self, why: str, reason: str) -> None:
        """The config in force stays; what was said already is not said at every try."""
        if self._failed_at is None:
            self._failed_at = self.clock()
        self._good.set(0)
        self.gateway.metrics.reloads.labels("failed").inc()
        if why == ASKED or reason != self._reason:
            self.gateway.log.write("reload", result="failed", why=why, error=reason)
        self._reason = reason

    def _key_texts(self) -> int:
        return hash(tuple(key.key.reveal() for key in self.gateway.config.keys))


def in_force(before: Config, written: Config) -> tuple[Config, Sequence[str]]:
    """What of a config can be put in force now, and the sections that need a restart."""
    kept = {name: getattr(before, name) for name in NEEDS_RESTART if getattr(before, name) != getattr(written, name)}
    return msgspec.structs.replace(written, **kept), list(kept)


def changes(before: Config, now: Config) -> Mapping[str, str | None]:
    """The names of what is added, changed and removed, for the log."""
    was, is_ = _named(before), _named(now)
    found = {
        "added": [name for name in is_ if name not in was],
        "changed": [name for name in is_ if name in was and was[name] != is_[name]],
        "removed": [name for name in was if name not in is_],
    }
    return {word: ", ".join(names) or None for word, names in found.items()}


def _named(config: Config) -> Mapping[str, Any]:
    """Every part of a config under a name of its own."""
    found: dict[str, Any] = {}
    for section, value in msgspec.structs.asdict(config).items():
        section = "providers" if section == "accounts" else section
        if isinstance(value, Mapping):
            found |= {f"{section}.{name}": part for name, part in value.items()}
        elif isinstance(value, tuple):
            found |= {f"{section}.{part.name}": part for part in value}
        else:
            found[section] = value
    return found
