"""`python -m bench`: measures every contender that this machine has and writes bench/RESULTS.md."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import load, machine, translated, variants
from bench.contender import Contender
from bench.contenders import contenders
from bench.contenders.nginx import Nginx
from bench.report import SUBJECT, Conditions, report
from bench.rounds import FULL, QUICK, Run

ROOT = Path(__file__).resolve().parent.parent


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the bench; 0 when it was measured, 1 when it cannot be."""
    arguments = _parser().parse_args(argv)
    try:
        binaries = dict(pair.split("=", 1) for pair in arguments.binary)
        chosen, left_out = _present(contenders(ROOT, binaries), arguments.only)
        lacking = load.missing() or Nginx().prepare() or variants.missing()  # nginx is the upstream too
        if lacking or not chosen:
            raise RuntimeError(lacking or "; ".join(left_out))
        text = _measured(chosen, left_out, arguments)
    except (RuntimeError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    Path(arguments.out).write_text(text)
    print(text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: whether it works, not how fast it is")
    parser.add_argument("--only", metavar="NAMES", type=lambda text: text.lower().split(","), help="a,b,c")
    parser.add_argument("--binary", metavar="NAME=PATH", action="append", default=[], help="a contender's program")
    parser.add_argument("--rounds", type=int, metavar="N")
    parser.add_argument("--out", metavar="FILE", default=str(ROOT / "bench" / "RESULTS.md"))
    return parser


def _present(known: Sequence[Contender], only: Sequence[str] | None) -> tuple[list[Contender], list[str]]:
    """Who can be measured here, and what the others lack."""
    chosen, left_out = [], []
    for contender in known:
        if only is not None and contender.name.lower() not in only:
            continue
        lacking = contender.prepare()
        if lacking:
            left_out.append(lacking)
            _say(lacking)
        else:
            chosen.append(contender)
    return chosen, left_out


def _measured(chosen: Sequence[Contender], left_out: Sequence[str], arguments: argparse.Namespace) -> str:
    plan = QUICK if arguments.quick else FULL
    plan = plan._replace(rounds=arguments.rounds or plan.rounds)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        run = Run(chosen, plan, machine.cores(), Path(folder), _say)
        run.plain(Nginx().binary)
        run.streams()
        ours = next((contender for contender in chosen if contender.name == SUBJECT), None)
        translation = _translation(ours, run, Path(folder)) if ours else None
        parts = variants.measure(ours.binary, ROOT, run) if ours else None
    versions = [f"{contender.name} {contender.version()}" for contender in chosen]
    conditions = Conditions(machine.description(), machine.commit(ROOT), versions, left_out)
    return report(run, conditions, translation, parts)


def _translation(ours: Contender, run: Run, folder: Path) -> translated.Translation:
    return translated.measure(ours.binary, run.cores, folder, (run.plan.rounds, run.plan.seconds), _say)


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
