"""The order of a run: each measurement in rounds, every contender once a round; medians at the end.

Rule 1. A, B, C, A, B, C: what the machine does meanwhile falls on all of them.
Rule 2. A round in which others used the machine is repeated, and counted as disturbed when it stays so.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench import upstreams
from bench.contender import KEY, Contender, Place
from bench.load import CHAT_BYTES, PROMPT_BYTES, Figures, Streams, Target, Wrk, chat_body, first_call
from bench.machine import Calm, Cores
from bench.process import Process, free_port, plain_env

FOREIGN_CORES = 0.08
"""How much of one core others may use before a round is measured again."""
TRIES = 4


class Plan(NamedTuple):
    """How long and how often."""

    rounds: int
    seconds: float
    streams: int
    patience_s: float


FULL = Plan(rounds=5, seconds=5.0, streams=200, patience_s=10.0)
QUICK = Plan(rounds=1, seconds=1.0, streams=50, patience_s=0.0)

Measured = dict[str, list[float]]


class Run:
    """One run over some contenders. `found` holds figures by contender and name, `disturbed` counts noisy rounds."""

    def __init__(
        self, chosen: Sequence[Contender], plan: Plan, cores: Cores, folder: Path, say: Callable[[str], None]
    ) -> None:
        self.chosen, self.plan, self.cores, self.folder, self.say = chosen, plan, cores, folder, say
        self.found: dict[str, Measured] = {contender.name: {} for contender in chosen}
        self.disturbed = 0

    def plain(self, nginx: str) -> None:
        """Plain calls: 32 connections, one connection, long prompts on 8 connections."""
        wrk, seconds = Wrk(self.cores.others, self.folder), self.plan.seconds
        chat, prompt = chat_body(CHAT_BYTES), chat_body(PROMPT_BYTES)
        with self.chats(nginx) as targets:
            self._rounds("1 connection", targets, "single", lambda target: wrk.run(target, chat, 1, seconds))
            self._rounds("540 KB prompts", targets, "large", lambda target: wrk.run(target, prompt, 8, seconds))

    @contextlib.contextmanager
    def chats(self, nginx: str) -> Iterator[list[Target]]:
        """Plain calls on 32 connections; who was measured runs on until the block ends."""
        wrk, seconds = Wrk(self.cores.others, self.folder), self.plan.seconds
        chat = chat_body(CHAT_BYTES)
        upstream = upstreams.plain(nginx, self.folder / "plain", self.cores.others)
        with upstream as port, self._started(port, stream=False) as targets:
            for target in targets:
                wrk.run(target, chat, 32, min(seconds, 2.0))  # caches filled, code specialised
            self._rounds("32 connections", targets, "plain", lambda target: wrk.run(target, chat, 32, seconds))
            yield targets

    def streams(self) -> None:
        """Streams at once, an event of each every 20 ms."""
        load = Streams(self.cores.others)
        upstream = upstreams.streaming(self.folder / "streams", self.cores.others)
        with upstream as port, self._started(port, stream=True) as targets:
            count, seconds = self.plan.streams, self.plan.seconds
            self._rounds(f"{count} streams", targets, "stream", lambda target: load.run(target, count, seconds))

    def median(self, name: str, figure: str) -> float:
        return statistics.median(self.found[name][figure])

    def range(self, name: str, figure: str) -> tuple[float, float]:
        return min(self.found[name][figure]), max(self.found[name][figure])

    @contextlib.contextmanager
    def _started(self, upstream_port: int, *, stream: bool) -> Iterator[list[Target]]:
        ask = first_call(stream)
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(self._running(contender, upstream_port, ask)) for contender in self.chosen]

    @contextlib.contextmanager
    def _running(self, contender: Contender, upstream_port: int, ask: bytes) -> Iterator[Target]:
        """The contender after its first answer: how long that took, and what memory it holds."""
        folder = self.folder / f"{contender.name}-{upstream_port}"
        folder.mkdir()
        place = Place(folder, free_port(), free_port(), upstream_port)
        argv = contender.command(place)
        with Process(argv, self.cores.contender, folder / "said.log", plain_env()) as process:
            self._note(contender.name, "", {"start_s": process.until_ready(place.port, ask, KEY)})
            self._note(contender.name, "idle_", {"rss_mb": process.rss_mb()})
            yield Target(contender.name, process, place.port)

    def _rounds(self, what: str, targets: Sequence[Target], prefix: str, measure: Callable[[Target], Figures]) -> None:
        for round_ in range(1, self.plan.rounds + 1):
            for target in targets:
                figures = self._undisturbed(partial(measure, target))
                self._note(target.name, f"{prefix}_", figures)
                self.say(f"{what}, round {round_}: {target.name} {figures['rate']:,.0f}/s")

    def _undisturbed(self, measure: Callable[[], Figures]) -> Figures:
        """Measures again, after a pause, while others use the machine; the last try counts whatever it is."""
        for _ in range(TRIES if self.plan.patience_s else 1):
            calm = Calm()
            figures = measure()
            if calm.foreign_cores() <= FOREIGN_CORES:
                return figures
            time.sleep(self.plan.patience_s)
        self.disturbed += 1
        return figures

    def _note(self, name: str, prefix: str, figures: Figures) -> None:
        for figure, value in figures.items():
            self.found[name].setdefault(prefix + figure, []).append(value)
