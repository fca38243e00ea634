"""Known weights per cloud: id, price, limits, features, regions, retirement, successor. The rows are catalog/*.toml.

Rule 1. A row says only what its source says; what is doubtful is marked `unverified` and the note says why.
Rule 2. Features are words of gateway.types.FEATURES. A word is missing where the cloud was not seen to offer it: a
        missing word costs a candidate, a wrong one costs a caller an error.
Rule 3. `retires` is the first day without service. A row stays after that, so that who asks learns what became of it.
"""

import tomllib
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import msgspec

from gateway.errors import ConfigError
from gateway.prices import list_price, usd_to_nano
from gateway.types import FEATURES, Frozen, Price

FOLDER = Path(__file__).with_suffix("")
WARN_DAYS = 90


class Weights(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One set of weights, whoever serves it. `aliases` are Hugging Face ids and other spellings; `parameters_b` counts
    billions as the makers name them, `active_b` those at work per token. `successor` is the next choice anywhere."""

    name: str
    aliases: tuple[str, ...] = ()
    parameters_b: float | None = None
    active_b: float | None = None
    open: bool
    license: str
    context_tokens: int | None = None
    successor: str | None = None
    source: str
    checked: date
    note: str = ""


class Row(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One set of weights at one cloud.

    `id` is what a call names there, `ids` are other names for the same thing at the same price. Prices are nano-dollars
    per one million tokens; `per_character` is per one million characters, for clouds that bill those, and then `price`
    is an estimate. A limit of None is not known. `offered` is False where the cloud no longer lists it (or never did)
    and no date was found; `retires_tier` names the customers a date concerns, "" for all."""

    cloud: str
    weights: str
    id: str
    ids: tuple[str, ...] = ()
    price: Price | None = None
    batch: Price | None = None
    cached_input: int | None = None
    per_character: Price | None = None
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    features: frozenset[str] = frozenset()
    stop_limit: int | None = None
    regions: tuple[str, ...] = ()
    offered: bool = True
    retires: date | None = None
    retires_tier: str = ""
    successor: str | None = None
    source: str
    checked: date
    note: str = ""
    unverified: bool = False

    def gone(self, today: date) -> bool:
        """Whether a new customer can no longer call it."""
        return not self.offered or (self.retires is not None and self.retires <= today)


class Catalog:
    """All rows, read once. Names, aliases and ids are compared without regard to case."""

    def __init__(self, weights: Iterable[Weights], rows: Iterable[Row]) -> None:
        self.known = tuple(weights)
        self._rows = tuple(rows)
        self._by_name = {spelling.casefold(): w for w in self.known for spelling in (w.name, *w.aliases)}
        self._by_place = {(row.cloud, row.weights): row for row in self._rows}
        self._by_id = {(row.cloud, id_.casefold()): row for row in self._rows for id_ in (row.id, *row.ids)}

    @classmethod
    def load(cls, folder: Path = FOLDER) -> "Catalog":
        """Read every file of the folder. Raises ConfigError naming the file and the row."""
        weights: list[Weights] = []
        rows: list[Row] = []
        for path in sorted(folder.glob("*.toml")):
            data = tomllib.loads(path.read_text(encoding="utf-8"))
            if path.stem == "weights":
                weights = [_weights(path.name, raw) for raw in data["weights"]]
            else:
                rows += _rows_of(path, data)
        return cls(weights, rows)

    def weights(self, name_or_alias: str) -> Weights | None:
        return self._by_name.get(name_or_alias.casefold())

    def row(self, cloud: str, weights: str) -> Row | None:
        """The row of these weights, named or by an alias, at this cloud."""
        known = self.weights(weights)
        return self._by_place.get((cloud, known.name)) if known else None

    def rows(self, cloud: str | None = None) -> tuple[Row, ...]:
        return self._rows if cloud is None else tuple(row for row in self._rows if row.cloud == cloud)

    def by_id(self, cloud: str, model: str) -> Row | None:
        return self._by_id.get((cloud, model.casefold()))

    def live(self, weights: str, today: date) -> tuple[Row, ...]:
        """Where these weights can be called, surest first: who has no doubt and the longest runway."""
        rows = [row for row in self._rows if row.weights == weights and not row.gone(today)]
        return tuple(sorted(rows, key=lambda row: (row.unverified, -(row.retires or date.max).toordinal(), row.cloud)))


def _rows_of(path: Path, data: dict[str, Any]) -> list[Row]:
    if data.get("cloud") != path.stem:
        raise ConfigError(path.name, f"the file must say cloud = {path.stem!r}")
    defaults = {"cloud": path.stem, **data.get("defaults", {})}
    return [_row(path.name, {**defaults, **raw}) for raw in data["rows"]]


def _row(file: str, raw: dict[str, Any]) -> Row:
    where = f"{file}: {raw.get('weights', '?')}"
    unknown = set(raw.get("features", ())) - FEATURES.keys()
    if unknown:
        raise ConfigError(where, f"unknown features {sorted(unknown)}; known are {', '.join(FEATURES)}")
    try:
        money: dict[str, object] = {key: _price(raw[key]) for key in ("price", "batch", "per_character") if key in raw}
        if "cached_input" in raw:
            money["cached_input"] = usd_to_nano(raw["cached_input"])
        return msgspec.convert(raw | money, Row, builtin_types=(date,), from_attributes=True)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(where, str(error)) from error


def _price(raw: dict[str, str]) -> Price:
    if raw.keys() != {"in", "out"}:
        raise ValueError(f"a price is {{in, out}}, not {raw}")
    return list_price(raw["in"], raw["out"])


def _weights(file: str, raw: dict[str, Any]) -> Weights:
    try:
        return msgspec.convert(raw, Weights, builtin_types=(date,))
    except msgspec.ValidationError as error:
        raise ConfigError(f"{file}: {raw.get('name', '?')}", str(error)) from error
