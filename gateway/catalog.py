"""Known weights per cloud: id, price, limits, features, regions, retirement, successor. The rows are catalog/*.toml.

Rule 1. A row says only what its source says; what is doubtful is marked `unverified` and the note says why.
Rule 2. Features are words of gateway.types.FEATURES. A word is missing where the cloud was not seen to offer it: a
        missing word costs a candidate, a wrong one costs a caller an error.
Rule 3. `retires` is the first day without service. A row stays after that, so that who asks learns what became of it.
"""

import tomllib
from collections.abc import Iterable, Set
from datetime import date
from pathlib import Path
from typing import Any

import msgspec

from gateway.errors import ConfigError
from gateway.prices import list_price, usd, usd_to_nano
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

    def list_price(self, billing: str = "on_demand") -> Price | None:
        """The price of a call, with that of cached prompt tokens; batch where it is billed so and known."""
        if billing == "batch" and self.batch is not None:
            return self.batch
        if self.price is None or self.cached_input is None:
            return self.price
        return msgspec.structs.replace(self.price, cached=self.cached_input)

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


def retirement_warnings(
    rows: Iterable[Row], today: date, within_days: int = WARN_DAYS, catalog: Catalog | None = None
) -> list[str]:
    """A sentence with the remedy for each row that is gone or retires within so many days, soonest first.

    With the catalogue at hand it also says where the same weights can still be called."""
    due = [row for row in rows if row.gone(today) or (row.retires and (row.retires - today).days <= within_days)]
    due.sort(key=lambda row: (row.retires or date.min, row.cloud, row.weights))
    return [f"{row.cloud} {row.weights} {_fate(row, today)}; {_remedy(row, today, catalog)}" for row in due]


def table(rows: Iterable[Row], today: date) -> str:
    """The rows for people: one block per cloud, prices in USD per one million tokens, features once per cloud."""
    by_cloud: dict[str, list[Row]] = {}
    for row in rows:
        by_cloud.setdefault(row.cloud, []).append(row)
    cells = {cloud: [_HEADINGS, *(_cells(row, today) for row in group)] for cloud, group in by_cloud.items()}
    widths = [
        max(map(len, column)) for column in zip(*(line for lines in cells.values() for line in lines), strict=True)
    ]
    blocks = [[cloud, *(_line(c, widths) for c in cells[cloud]), *_offers(group)] for cloud, group in by_cloud.items()]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def to_json(rows: Iterable[Row]) -> str:
    """The rows for programs: a JSON array of objects; prices are strings of USD, exact, and null is not known."""
    return msgspec.json.format(msgspec.json.encode([_plain(row) for row in rows]), indent=2).decode() + "\n"


_HEADINGS = ["weights", "id", "in $/1M", "out $/1M", "context", "output", "status"]
_RIGHT = range(2, 6)


def _cells(row: Row, today: date) -> list[str]:
    prices = [usd(row.price.input), usd(row.price.output)] if row.price else ["-", "-"]
    limits = [f"{limit:,}" if limit else "-" for limit in (row.context_tokens, row.max_output_tokens)]
    return [row.weights, row.id, *prices, *limits, _status(row, today)]


def _status(row: Row, today: date) -> str:
    if row.retires:
        words = f"{'gone' if row.gone(today) else 'until'} {row.retires}"
    else:
        words = "live" if row.offered else "not offered"
    return words + (f" -> {row.successor}" if row.successor else "") + (" (unverified)" if row.unverified else "")


def _line(cells: list[str], widths: list[int]) -> str:
    aligned = [c.rjust(w) if i in _RIGHT else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
    return ("  " + "  ".join(aligned)).rstrip()


def _offers(group: list[Row]) -> list[str]:
    """What the rows of one cloud offer and do not, said once for all that are alike."""
    alike: dict[tuple[frozenset[str], int | None], list[str]] = {}
    for row in group:
        alike.setdefault((row.features, row.stop_limit), []).append(row.weights)
    lines = []
    for (features, stop_limit), weights in alike.items():
        whose = "" if len(alike) == 1 else f"{', '.join(weights)}: "
        limit = f" (at most {stop_limit} stop strings)" if stop_limit else ""
        lines.append(f"  {whose}offers {_words(features)}{limit}")
        lines.append(f"  {whose}not {_words(FEATURES.keys() - features)}")
    return lines


def _words(features: Set[str]) -> str:
    return ", ".join(word for word in FEATURES if word in features)


def _fate(row: Row, today: date) -> str:
    tier = f" ({row.retires_tier})" if row.retires_tier else ""
    if row.retires is None:
        return f"is not offered{tier}, no date known"
    days = (row.retires - today).days
    return f"retired {row.retires}{tier}" if days <= 0 else f"retires {row.retires}{tier}, in {days} days"


def _remedy(row: Row, today: date, catalog: Catalog | None) -> str:
    known = catalog.weights(row.weights) if catalog else None
    successor = row.successor or (known.successor if known else None)
    advice = [f"move to {successor}{_place(row, successor, today, catalog)}"] if successor else []
    elsewhere = [other.cloud for other in catalog.live(row.weights, today)] if catalog else []
    elsewhere = [cloud for cloud in elsewhere if cloud != row.cloud]
    if elsewhere:
        advice.append(f"the same weights are at {', '.join(elsewhere)}")
    return ", or ".join(advice) or "no successor is known: serve the weights yourself (vllm)"


def _place(row: Row, successor: str, today: date, catalog: Catalog | None) -> str:
    """Where the successor is: at the same cloud by its id, else at other clouds."""
    if catalog is None:
        return ""
    there = catalog.row(row.cloud, successor)
    if there and not there.gone(today):
        until = f", itself only until {there.retires}" if there.retires else ""
        return f" there (model: {there.id}{until})"
    clouds = [other.cloud for other in catalog.live(successor, today)]
    return f" at {', '.join(clouds)}" if clouds else ""


def _plain(row: Row) -> dict[str, object]:
    plain: dict[str, object] = msgspec.to_builtins(row)
    for key in ("price", "batch", "per_character"):
        price: Price | None = getattr(row, key)
        plain[key] = price and {"in": usd(price.input), "out": usd(price.output)}
    plain["cached_input"] = None if row.cached_input is None else usd(row.cached_input)
    plain["features"] = [word for word in FEATURES if word in row.features]
    return plain


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
