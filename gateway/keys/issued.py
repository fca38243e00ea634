"""The run-time keys as this process knows them: all in memory, kept up with the database off every call's path.

Rule 1. A key is looked up by its digest in memory; what fails its own checksum is not even digested.
Rule 2. A change by any replica is seen after POLL_S and what the database takes; while it is away, what is known
        holds.
Rule 3. Once a key was ever made, or while it is not known whether one was, nobody is anonymous.
"""

import asyncio
import contextlib
import hmac
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from gateway.config.document import KeyGrant, StoreConfig
from gateway.errors import ClientError, ConfigError, ServiceError
from gateway.keys.keyformat import is_key, new_key
from gateway.keys.keystore import Issue, KeyStore
from gateway.keys.pepper import Pepper, beside, kept, made
from gateway.ledger.database import LedgerError, Rejected
from gateway.ledger.place import Storage, place
from gateway.log import Log
from gateway.worker import Worker

POLL_S = 0.25
WAIT_S = 10.0
FIRST_LOAD_S = 2.0
FOREVER = float("inf")
T = TypeVar("T")


class Source(NamedTuple):
    """Where keys are kept. `peppers` are those at hand, `make_peppers` makes one if need be; all may block."""

    store: KeyStore
    peppers: Callable[[], Sequence[Pepper]]
    make_peppers: Callable[[], Sequence[Pepper]]


class Known(NamedTuple):
    """What was read: the version, and the keys that changed, of all there are when `whole`."""

    version: int
    issues: Sequence[Issue]
    peppers: Sequence[Pepper]
    whole: bool


class Issued:
    """Owns what is known of run-time keys, and the thread that reads and writes them."""

    def __init__(self, source: Source | None, log: Log, wall: Callable[[], float] = time.time) -> None:
        self.gone: Callable[[str], None] = lambda name: None
        """Told the name of each key that was revoked."""
        self.exposed = False
        """Whether others than this machine can reach the public port."""
        self.loaded, self.away = False, False
        self._source, self._log, self._wall = source, log, wall
        self._peppers: Sequence[Pepper] = ()
        self._by_id: dict[str, Issue] = {}
        self._by_digest: Mapping[str, tuple[Issue, float]] = {}
        self._seen = 0
        self._lost: Sequence[str] = []
        self._worker = Worker("keys")
        self._task: asyncio.Task[None] | None = None

    @property
    def offered(self) -> bool:
        return self._source is not None

    @property
    def required(self) -> bool:
        """Whether every caller needs a key even when the config has none."""
        return self.offered and (not self.loaded or self._seen > 0)

    def __len__(self) -> int:
        """How many are not revoked."""
        return len(self._by_id)

    def names(self) -> set[str]:
        return {issue.name for issue in list(self._by_id.values())}

    def find(self, key: bytes) -> Issue | None:
        """The key, unless it is revoked; whether it has expired is not looked at. Raises ServiceError while nothing is
        known yet."""
        if not is_key(key):
            return None
        if not self.loaded and self.offered:
            raise ServiceError(503, "overloaded", "Keys cannot be checked yet: send the call again.", retry_after_s=1)
        for pepper in self._peppers:
            digest = pepper.digest(key)
            issue, until = self._by_digest.get(digest, (None, 0.0))
            if issue is not None and self._wall() < until:
                kept = issue.digest if until == FOREVER else issue.digest_before or ""
                return issue if hmac.compare_digest(kept, digest) else None
        return None

    def refused(self, issue: Issue, reason: str) -> None:
        """A key that is here and cannot be used."""
        self._log.write("key_unusable", name=issue.name, id=issue.id, reason=reason)

    async def named(self, name_or_id: str) -> Issue:
        """An active key, whichever replica made it. Raises ClientError 404, ServiceError."""
        self._take(await self._done(_read, self._offer(), self._seen))
        found = self._by_id.get(name_or_id)
        found = found or next((issue for issue in self._by_id.values() if issue.name == name_or_id), None)
        if found is None:
            raise ClientError(404, "not_found", f"There is no active run-time key '{name_or_id[:128]}'.")
        return found

    # ------------------------------------------------------------------ keeping up
    async def start(self) -> None:
        """Reads what there is; a database that is away holds up the start for a moment only."""
        if self._source is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIRST_LOAD_S):
                    await self._keep_up(self._source)
            self._task = asyncio.create_task(self._poll(self._source))

    async def aclose(self) -> None:
        if self._task is not None and self._source is not None:
            self._task.cancel()
            self._worker.close(self._source.store.close)

    async def _poll(self, source: Source) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            await self._keep_up(source)

    async def _keep_up(self, source: Source) -> None:
        try:
            self._take(await self._worker.do(WAIT_S, _read, source, self._seen))
        except (LedgerError, ConfigError, TimeoutError) as error:
            self._say(True, str(error) or "no answer")
        except Exception as error:  # noqa: BLE001  (it must go on: a key may be revoked)
            self._say(True, f"a bug: {type(error).__name__}")
        else:
            self.loaded = True
            self._say(False)

    def _say(self, away: bool, reason: str | None = None) -> None:
        """One line for each change."""
        if away != self.away:
            self.away = away
            self._log.write("keys_store", state="away" if away else "back", reason=reason, keys=len(self))

    def _take(self, known: Known) -> None:
        if known.whole:
            self._by_id.clear()
        for issue in known.issues:
            if issue.revoked_ms is None:
                self._by_id[issue.id] = issue
            elif self._by_id.pop(issue.id, None) is not None and issue.name not in self.names():
                self.gone(issue.name)
        if known.issues or known.whole:
            self._by_digest = _digests(self._by_id.values())
        self._seen, self._peppers = known.version, known.peppers or self._peppers
        if known.issues:
            self._warn_of_peppers()

    def _warn_of_peppers(self) -> None:
        """A line for the keys that cannot be known, for what they were digested with is not here."""
        names = {pepper.name for pepper in self._peppers}
        lost = [issue.name for issue in self._by_id.values() if issue.pepper not in names]
        if lost != self._lost:
            self._lost = lost
            self._log.write("keys_pepper_missing", keys=len(lost), first=lost[0] if lost else None)

    # ------------------------------------------------------------------ changes
    async def every(self) -> Sequence[Issue]:
        """All keys there ever were, in the order of their last changes. Raises ServiceError."""
        source = self._offer()
        return await self._done(source.store.newer_than, 0)

    async def create(self, grant: KeyGrant, by: str) -> tuple[Issue, str]:
        """A new key and its row; the key is in no other place. Raises ClientError, ServiceError."""
        source, key = self._offer(), new_key()
        digest, pepper = self._digested(await self._done(source.make_peppers), key)
        issue = Issue(
            id=f"key_{secrets.token_hex(8)}",
            name=grant.name,
            digest=digest,
            pepper=pepper,
            words=msgspec.json.encode(grant).decode(),
            created_ms=self._now_ms(),
            created_by=by,
        )
        return await self._written(source, source.store.add, issue), key

    async def revoke(self, issue: Issue, by: str) -> Issue:
        """From now on the key is an unknown one here, on other replicas within a second. Raises as `create`."""
        source = self._offer()
        issue = msgspec.structs.replace(issue, revoked_ms=self._now_ms(), revoked_by=by)
        return await self._written(source, source.store.replace, issue)

    async def rotate(self, before: Issue, overlap_s: float) -> tuple[Issue, str]:
        """A new key in the place of another, which goes on for `overlap_s`. Raises as `create`."""
        source, key = self._offer(), new_key()
        digest, pepper = self._digested(await self._done(source.make_peppers), key)
        issue = msgspec.structs.replace(
            before,
            digest=digest,
            pepper=pepper,
            digest_before=before.digest,
            before_until_ms=self._now_ms() + int(overlap_s * 1000),
        )
        return await self._written(source, source.store.replace, issue), key

    def _offer(self) -> Source:
        if self._source is None:
            raise ClientError(400, "not_offered", "Run-time keys need a place: say `store: {ledger: …}` in the config.")
        return self._source

    def _digested(self, peppers: Sequence[Pepper], key: str) -> tuple[str, str]:
        """The digest and the name of its pepper."""
        if not peppers:
            remedy = "say `store: {peppers: [env:…]}`, the same for all replicas"
            raise ClientError(400, "not_offered", f"Keys in PostgreSQL need a secret to be digested with: {remedy}.")
        return peppers[0].digest(key.encode()), peppers[0].name

    async def _written(self, source: Source, write: Callable[[Issue], Issue], issue: Issue) -> Issue:
        written = await self._done(write, issue)
        await self._keep_up(source)
        return written

    async def _done(self, work: Callable[..., T], *of: Any) -> T:
        """Raises ClientError 409 for what another change stands against, ServiceError while the database is away."""
        try:
            return await self._worker.do(WAIT_S, work, *of)
        except Rejected as error:
            raise ClientError(409, "conflict", f"This cannot be: {error}.") from error
        except (LedgerError, ConfigError, TimeoutError) as error:
            reason = str(error) or "it does not answer"
            raise ServiceError(503, "store_away", f"The keys' database is away: {reason}.", retry_after_s=5) from error

    def _now_ms(self) -> int:
        return int(self._wall() * 1000)


def _read(source: Source, seen: int) -> Known:
    """What changed since a version; all there is where the database is older than that, for it was brought back."""
    version = source.store.version()
    whole = version < seen
    issues = source.store.newer_than(0 if whole else seen) if version != seen else ()
    return Known(version, issues, source.peppers() if issues else (), whole)


def _digests(issues: Collection[Issue]) -> Mapping[str, tuple[Issue, float]]:
    """Each digest with its key, and until when it holds."""
    found = {issue.digest: (issue, FOREVER) for issue in issues}
    before = [issue for issue in issues if issue.digest_before and issue.before_until_ms]
    return found | {i.digest_before or "": (i, (i.before_until_ms or 0) / 1000) for i in before}


def issued_keys(store: StoreConfig, storage: Storage, log: Log, wall: Callable[[], float]) -> Issued:
    """The run-time keys in the ledger's database; none where there is no ledger."""
    url = store.url(storage.usual)
    if url is None:
        return Issued(None, log, wall)
    where = place(url, storage.folder)
    peppers = tuple(Pepper(secret.reveal().encode()) for secret in store.peppers)
    if not peppers and where.in_memory:
        peppers = (Pepper(secrets.token_bytes(32)),)
    if peppers or where.kind != "sqlite":
        return Issued(Source(KeyStore(where), lambda: peppers, lambda: peppers), log, wall)
    file = beside(Path(where.address))
    return Issued(Source(KeyStore(where), lambda: kept(file), lambda: made(file)), log, wall)
