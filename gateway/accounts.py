"""The accounts of a config as they run: opened, or taken over from the config before where nothing changed."""

import asyncio
import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from gateway.account import Account
from gateway.config.document import Config
from gateway.errors import ConfigError
from gateway.secret import Secret
from gateway.types import Provider


class Accounts:
    """Owns the connections and tokens of all accounts of one config. `opened` are the names of those not taken over."""

    def __init__(self, config: Config, clock: Callable[[], float], before: "Accounts | None" = None) -> None:
        """Opens what is new, without any I/O but the reading of files. Raises ConfigError."""
        self._config = config
        self._stamps = {name: _stamp(account) for name, account in config.accounts.items()}
        kept = before.providers if before else {}
        self.opened = [name for name in config.accounts if before is None or not self._same(name, before)]
        self.providers: Mapping[str, Provider] = {
            name: open_account(account, name, clock) if name in self.opened else kept[name]
            for name, account in config.accounts.items()
        }
        self._secrets: dict[str, int] = before._secrets if before else {}

    def moved(self, before: "Accounts") -> Sequence[str]:
        """The accounts that are at another place than before: what was learned of them is of another server."""
        was, now = before._config.accounts, self._config.accounts
        return [name for name in self.opened if name in was and _place(was[name]) != _place(now[name])]

    def _same(self, name: str, before: "Accounts") -> bool:
        return (
            before._config.accounts.get(name) == self._config.accounts[name]
            and before._stamps[name] == self._stamps[name]
        )

    def gone(self, after: "Accounts") -> Sequence[Provider]:
        """Those that were not taken over by the accounts after these."""
        return [provider for name, provider in self.providers.items() if after.providers.get(name) is not provider]

    def outdated(self) -> bool:
        """Whether a file has changed that was read on opening."""
        return any(_stamp(account) != self._stamps[name] for name, account in self._config.accounts.items())

    async def start(self) -> None:
        """Readies at once every account that was opened here."""
        await asyncio.gather(*(self.providers[name].start() for name in self.opened))

    async def undo(self) -> None:
        """Closes what was opened here."""
        for name in self.opened:
            await self.providers[name].aclose()

    def with_new_secrets(self) -> Sequence[str]:
        """The accounts whose secrets are not those of the last look."""
        now = {name: hash(tuple(provider.secrets)) for name, provider in self.providers.items()}
        last, self._secrets = self._secrets, now
        return [name for name, found in now.items() if last.get(name, found) != found]


def open_account(account: Account, name: str, clock: Callable[[], float]) -> Provider:
    """The running side of an account. Raises ConfigError for what is missing on this machine."""
    opener: Any = account  # every provider's account has `open`; see providers/openai.py
    try:
        provider: Provider = opener.open(name, clock)
    except ssl.SSLError as error:
        raise ConfigError(
            f"providers.{name}.ca_file", f"{account.ca_file} holds no certificates in PEM form"
        ) from error
    except OSError as error:
        raise ConfigError(f"providers.{name}.ca_file", f"{account.ca_file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"providers.{name}", str(error)) from error
    return provider


HOW = frozenset(
    """timeouts max_connections ca_file trust stream_end on_disconnect stream_usage gpu_usd_per_hour gpus
    metrics_every_s emulates""".split()  # noqa: SIM905
)
"""What of an account says how it is called, not which server answers."""


def _place(account: Account) -> object:
    fields = msgspec.structs.asdict(account).items()
    return type(account), {name: value for name, value in fields if name not in HOW and not isinstance(value, Secret)}


def _stamp(account: Account) -> object:
    """Moves when a file that is read only once, on opening, does."""
    try:
        found = os.stat(account.ca_file) if account.ca_file else None
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns) if found else None
