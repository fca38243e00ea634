"""The report: medians as a table, ratios to each peer, and under which conditions they were measured."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from bench.rounds import Run
from bench.translated import Translation
from bench.variants import PLAIN

SUBJECT = "Arriero"
SUBJECTS = (SUBJECT, "Arriero-no-ledger")
BASE = "nginx"


class Column(NamedTuple):
    """A figure: its heading, its name in the run, how it is written, and whether more is better."""

    heading: str
    figure: str
    form: str
    more_is_better: bool = False


COLUMNS = (
    Column("req/s, c=32", "plain_rate", "{:,.0f}", True),
    Column("p50 ms", "plain_p50_us", "{:.2f} ms"),
    Column("p99 ms", "plain_p99_us", "{:.2f} ms"),
    Column("CPU us/req", "plain_cpu_us", "{:.0f}"),
    Column("c=1 p50 us", "single_p50_us", "{:.0f}"),
    Column("c=1 p99 us", "single_p99_us", "{:.0f}"),
    Column("540 KB prompts, req/s", "large_rate", "{:,.0f}", True),
    Column("CPU us/stream event", "stream_event_us", "{:.1f}"),
    Column("RSS idle, MB", "idle_rss_mb", "{:.0f}"),
    Column("RSS after c=32, MB", "plain_rss_mb", "{:.0f}"),
    Column("RSS after 540 KB, MB", "large_rss_mb", "{:.0f}"),
    Column("RSS with streams, MB", "stream_rss_mb", "{:.0f}"),
    Column("start s", "start_s", "{:.2f}"),
)


class Conditions(NamedTuple):
    """What a reader must know to believe a figure."""

    machine: str
    commit: str
    versions: Sequence[str]
    left_out: Sequence[str]


def report(run: Run, conditions: Conditions, translation: Translation | None, variants: Run | None) -> str:
    """The whole of RESULTS.md."""
    names = [contender.name for contender in run.chosen]
    parts = ["# Results of the bench", _conditions(run, conditions), _figures(run, names)]
    peers = [name for name in names if name not in SUBJECTS]
    parts += [_ratios(run, subject, peers) for subject in SUBJECTS if subject in names and peers]
    if translation is not None:
        parts.append(_translated(translation))
    if variants is not None:
        parts.append(_variants(variants))
    parts.append(_reading(run))
    return "\n\n".join(parts) + "\n"


def _conditions(run: Run, conditions: Conditions) -> str:
    plan = run.plan
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {conditions.commit}; {conditions.machine}.",
        f"Medians of {plan.rounds} interleaved rounds of {plan.seconds:g} s; {run.disturbed} disturbed by others.",
        "",
        *(f"- {version}" for version in conditions.versions),
        *(f"- left out: {reason}" for reason in conditions.left_out),
    ]
    return "\n".join(lines)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *["--:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _figures(run: Run, names: Sequence[str]) -> str:
    rows = [[name, *(_written(run, name, column) for column in COLUMNS)] for name in names]
    return _table(["", *(column.heading for column in COLUMNS)], rows)


def _written(run: Run, name: str, column: Column) -> str:
    scale: Callable[[float], float] = (lambda value: value / 1000) if column.form.endswith(" ms") else float
    form = column.form.removesuffix(" ms")
    text = form.format(scale(run.median(name, column.figure)))
    if column.figure != "plain_rate" or run.plan.rounds < 2:
        return text
    low, high = run.range(name, column.figure)
    return f"{text} ({form.format(low)} to {form.format(high)})"


def _ratios(run: Run, subject: str, peers: Sequence[str]) -> str:
    """The subject by each peer. Of medians, never differences of percentiles but for one connection's p50."""
    chosen = [c for c in COLUMNS if c.figure in ("plain_rate", "plain_cpu_us", "large_rate", "stream_event_us")]
    heads = [f"{subject} by", *(column.heading for column in chosen), "c=1 p50, us more", "c=1 p99, us more"]
    rows = []
    for peer in peers:
        ratios = [run.median(subject, c.figure) / max(run.median(peer, c.figure), 1e-9) for c in chosen]
        more = [run.median(subject, f) - run.median(peer, f) for f in ("single_p50_us", "single_p99_us")]
        rows.append([peer, *(f"{ratio:.2f} x" for ratio in ratios), *(f"{us:+.0f}" for us in more)])
    return _table(heads, rows)


def _translated(translation: Translation) -> str:
    """What another dialect costs, against calls that are passed through with a credential of the same kind."""
    known = {row.cloud: row for row in translation.rows}
    rows = []
    for row in translation.rows:
        base = known[row.base]
        call, event = row.call_us / base.call_us, row.event_us / base.event_us
        rows.append(
            [row.cloud, f"{row.call_us:.0f}", f"{call:.2f} x", f"{row.event_us:.1f}", f"{event:.2f} x", row.base]
        )
    heads = ["translation", "CPU us/call", "by pass-through", "CPU us/event", "by pass-through", "pass-through is"]
    return (
        f"{_table(heads, rows)}\n\nThe clouds of the sandbox, 1 KB calls on 8 connections and 50 streams; OCI's calls "
        f"are signed with RSA, of which one signature alone takes {translation.rsa_us:.0f} us here."
    )


def _variants(run: Run) -> str:
    """What a part costs, against the same gateway without it in the same rounds."""
    rates, cpu = "plain_rate", "plain_cpu_us"
    rows = [
        [
            contender.name,
            f"{run.median(contender.name, rates):,.0f}",
            f"{run.median(contender.name, rates) / run.median(PLAIN, rates):.2f} x",
            f"{run.median(contender.name, cpu):.0f}",
            f"{run.median(contender.name, cpu) - run.median(PLAIN, cpu):+.0f}",
            contender.about,
        ]
        for contender in run.chosen
    ]
    return _table(["with", "req/s, c=32", "by plain", "CPU us/req", "us more", "what is on"], rows)


def _reading(run: Run) -> str:
    about = "\n".join(f"- {contender.name}: {contender.about}." for contender in run.chosen)
    return f"""\
## What was measured

{about}

Each contender runs alone on one core; wrk or the clients of the streams, and the upstream, on another. Plain calls are
chat requests of 1 KB on 32 kept connections to an nginx that answers with 612 bytes; latencies with one connection are
those of the whole way, upstream included, so the ones of nginx are the floor. Prompts of 540 KB (about 128k tokens)
come on 8 connections. Streams: {run.plan.streams} at once, an event of each every 20 ms, written one by one. CPU is
user and system time of the contender's processes, divided by calls or events. Start is from the process to the first
answered call. Ratios matter, not figures: other machines give other figures."""
