"""What a key, a team or a route may use, and until when, as the config says it; counting it is not done here."""

import re
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Literal

import msgspec

from gateway.account import Section
from gateway.prices import usd_to_nano
from gateway.types import NANO_PER_USD, Budget, Limits

MOST_A_MINUTE = 1_000_000_000
"""More than any cloud serves; it keeps the sums of the limiters exact."""
MOST_USD = 5_000_000
"""Up to here money is exact to the nano-dollar wherever it is counted: Redis computes with 53 bits."""
_DATE = re.compile(r"\d{4}-\d\d-\d\d")

Rate = Annotated[int, msgspec.Meta(ge=1, le=MOST_A_MINUTE)]


class RateConfig(Section, frozen=True, kw_only=True):
    """Requests a minute, tokens a minute, calls at once; what is left out is not limited."""

    rpm: Rate | None = None
    tpm: Rate | None = None
    concurrent: Rate | None = None

    def __post_init__(self) -> None:
        if self.rpm is None and self.tpm is None and self.concurrent is None:
            raise ValueError("limits nothing: say rpm, tpm or concurrent")

    def limits(self) -> Limits:
        return Limits(rpm=self.rpm, tpm=self.tpm, concurrent=self.concurrent)


class LimitsConfig(RateConfig, frozen=True, kw_only=True):
    """As RateConfig, and `models`: further limits for each route whose name matches a glob pattern."""

    models: dict[str, RateConfig] = {}  # noqa: RUF012  (msgspec copies it)

    def __post_init__(self) -> None:
        if not self.models:
            super().__post_init__()

    def limits(self) -> Limits:
        models = tuple((pattern, rate.limits()) for pattern, rate in self.models.items())
        return msgspec.structs.replace(super().limits(), models=models)


class BudgetConfig(Section, frozen=True, kw_only=True):
    """US dollars per UTC day, UTC month, or in total. A hard budget is never passed, a soft one by one call at most."""

    usd: Decimal
    per: Literal["day", "month", "total"]
    hard: bool = False

    def __post_init__(self) -> None:
        try:
            nano = usd_to_nano(self.usd)
        except ValueError as error:
            raise ValueError(f"'usd': {error}") from error
        if not 0 < nano <= MOST_USD * NANO_PER_USD:
            raise ValueError(f"'usd' must be above 0 and at most {MOST_USD:,}, not {self.usd}")

    def budget(self) -> Budget:
        return Budget(nano=usd_to_nano(self.usd), per=self.per, hard=self.hard)


def moment(text: str) -> float:
    """The second since 1970 at which something expires: an RFC 3339 time, or a date, which counts to its end in UTC.

    Raises ValueError."""
    try:
        if _DATE.fullmatch(text):
            return (datetime.fromisoformat(f"{text}T00:00Z") + timedelta(days=1)).timestamp()
        found = datetime.fromisoformat(text)
        if found.tzinfo is not None:
            return found.timestamp()
    except (ValueError, OverflowError):
        pass
    raise ValueError("must be a date such as 2027-01-31 or a time such as 2027-01-31T18:00:00Z")
