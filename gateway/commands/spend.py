"""Spend and savings as data, as CSV and as tables for a terminal."""

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from gateway.ledger.reports import Period, Saved, Spent, total
from gateway.prices import usd

NAMES = ("name", "baseline")
"""The words of a line that are not numbers."""
CENT = 10_000_000
"""Of a US dollar, in nano-dollars."""


def spend_found(by: str, period: Period, lines: Sequence[Spent]) -> dict[str, Any]:
    """A report of spend: exact US dollars as text, and nano-dollars."""
    return {"by": by, **_times(period), "lines": [_spent(line) for line in lines], "total": _spent(total(lines))}


def _times(period: Period) -> dict[str, str]:
    return {"since": _time(period.since_ms), "until": _time(period.until_ms)}


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _spent(line: Spent) -> dict[str, Any]:
    return {
        "name": line.name,
        "count": line.times,
        "prompt_tokens": line.prompt_tokens,
        "cached_tokens": line.cached_tokens,
        "output_tokens": line.output_tokens,
        "charged_usd": usd(line.charged),
        "spent_usd": usd(line.spent),
        "charged_nano": line.charged,
        "spent_nano": line.spent,
        "estimated_share": _share(line.estimated, line.spent),
    }


def savings_found(period: Period, lines: Sequence[Saved]) -> dict[str, Any]:
    """A report of savings, one line a baseline."""
    return {**_times(period), "lines": [_saved(line) for line in lines]}


def _saved(line: Saved) -> dict[str, Any]:
    return {
        "baseline": line.baseline,
        "calls": line.calls,
        "prompt_tokens": line.prompt_tokens,
        "output_tokens": line.output_tokens,
        "spent_usd": usd(line.spent),
        "baseline_usd": usd(line.baseline_cost),
        "saved_usd": usd(line.baseline_cost - line.spent),
        "saved_share": _share(line.baseline_cost - line.spent, line.baseline_cost),
        "estimated_share": _share(line.estimated, line.spent),
    }


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def to_csv(found: Mapping[str, Any]) -> str:
    """The lines of a report with a head; amounts are exact."""
    out = io.StringIO()
    if found["lines"]:
        writer = csv.DictWriter(out, list(found["lines"][0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {word: _cell(value) if word in NAMES else value for word, value in line.items()} for line in found["lines"]
        )
    return out.getvalue()


def _cell(name: str) -> str:
    """Names come from configs and clouds: none may be a formula in a spreadsheet."""
    return f"'{name}" if name[:1] in ("=", "+", "-", "@") and len(name) > 1 else name


def spend_text(found: Mapping[str, Any]) -> str:
    """A report of spend for people."""
    what = "attempts" if found["by"] in ("deployment", "cloud", "model") else "calls"
    head = (found["by"], what, "tokens in", "cached", "tokens out", "charged", "spent", "estimated")
    if not found["lines"]:
        return f"No calls {_when(found)}."
    rows = [_row(line) for line in [*found["lines"], found["total"]]]
    lines = _table([head, *rows])
    lines.insert(len(lines) - 1, "-" * len(lines[0]))
    return "\n".join([f"Spend by {found['by']} {_when(found)}, in US dollars", "", *lines])


def _row(line: Mapping[str, Any]) -> tuple[str, ...]:
    counts = [f"{line[word]:,}" for word in ("count", "prompt_tokens", "cached_tokens", "output_tokens")]
    money = [_money(line["charged_nano"]), _money(line["spent_nano"])]
    return (line["name"], *counts, *money, f"{line['estimated_share']:.1%}")


def savings_text(found: Mapping[str, Any]) -> str:
    """A report of savings for people."""
    if not found["lines"]:
        return f"Nothing to compare {_when(found)}: say `baseline: {{model: gpt-4o}}` in the config."
    lines = []
    for line in found["lines"]:
        lines += [
            f"{line['calls']:,} calls {_when(found)}",
            f"  at {line['baseline']:<20} {_dollars(line['baseline_usd'])}",
            f"  as it went {'':<12} {_dollars(line['spent_usd'])}",
            f"  saved {'':<17} {_dollars(line['saved_usd'])}  ({line['saved_share']:.1%})",
            f"  estimated: {line['estimated_share']:.1%} of what was spent; the rest is what the clouds counted",
        ]
    return "\n".join(lines)


def _dollars(usd_: str) -> str:
    """With the sign in front: what went elsewhere may have cost more than the baseline."""
    return f"-${usd_[1:]}" if usd_.startswith("-") else f"${usd_}"


def _when(found: Mapping[str, Any]) -> str:
    return f"since {found['since'][:16].replace('T', ' ')} UTC"


def _money(nano: int) -> str:
    """Cents where there are many, all digits where there are none."""
    return f"{(nano + CENT // 2) // CENT / 100:,.2f}" if nano >= 100 * CENT else usd(nano)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Names to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
