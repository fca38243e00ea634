"""The `arriero` command: words to parts, errors to exit codes.

Exit codes: 0 done, 1 failed, 2 bad config or usage, 130 interrupted. Words for people go to stderr, data to stdout.
Flags that say where things are have ARRIERO_* twins."""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from gateway import workers
from gateway.app import Gateway
from gateway.catalog import Catalog, table, to_json
from gateway.commands import bookkeeping, remote_keys
from gateway.commands.check import warnings
from gateway.commands.remote import explain
from gateway.commands.screen import screen
from gateway.config import environment, loading, yaml_file
from gateway.config.document import Config
from gateway.config.refusals import unknown
from gateway.config.schema import schema
from gateway.errors import ArrieroError, ConfigError
from gateway.ledger.place import storage
from gateway.reload import ConfigFile
from gateway.serve import Listen, Running, say, serve

Arguments = argparse.Namespace


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code."""
    try:
        arguments = parser().parse_args(argv)
        command: Callable[[Arguments], int] = arguments.command
        return command(arguments)
    except ConfigError as error:
        say(f"arriero: {error}")
        return 2
    except ArrieroError as error:
        say(f"arriero: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stdout = None  # the reader is gone; nothing left to flush to
        return 1


def parser() -> argparse.ArgumentParser:
    """Every command with its flags. Raises ConfigError for a twin in the environment that makes no sense."""
    root = argparse.ArgumentParser(
        prog="arriero", description="One OpenAI-compatible API in front of Llama on every cloud.", allow_abbrev=False
    )
    commands = root.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, words: str, run: Callable[[Arguments], int]) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=words, description=words, allow_abbrev=False)
        added.set_defaults(command=run)
        return added

    _serve_flags(command("serve", "serve the API", _serve))
    check = command("check", "check a config file", _check)
    check.add_argument("file", metavar="FILE")
    check.add_argument("--offline", action="store_true", help="do not try to reach the deployments")
    command("schema", "JSON Schema of the config", _schema)
    models = command("models", "the catalogue", _models)
    models.add_argument("--cloud", metavar="C", help="only this cloud")
    models.add_argument("--json", action="store_true", help="for programs")
    _explain_flags(command("explain", "why a call went where it went, or would go", explain))
    remote_keys.flags(commands, _admin_url())
    spend = command("spend", "what was spent, by whom and where", bookkeeping.spend)
    savings = command("savings", "what the same calls would have cost at the baseline", bookkeeping.savings)
    bookkeeping.flags(spend, savings)
    for asking in (spend, savings):
        _admin_flags(asking)
    sandbox = command("sandbox", "the clouds in a box alone", _sandbox)
    sandbox.add_argument("--port", type=_port, default=_env("SANDBOX_PORT", _port, 9100), help="the first port")
    sandbox.add_argument("--print-config", action="store_true", help="write the config that uses them, and end")
    return root


def _env(name: str, kind: Callable[[str], Any], default: Any) -> Any:
    """The twin of a flag in the environment."""
    text = os.environ.get(f"ARRIERO_{name}")
    if not text:
        return default
    try:
        return kind(text)
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"ARRIERO_{name}", str(error)) from error


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is not a port (0 to 65535)")
    return int(text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 to 999,999,999")
    return int(text)


def _one_or_more(text: str) -> int:
    if _count(text) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def _serve_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", metavar="FILE", default=_env("CONFIG", str, None))
    command.add_argument("--host", default=_env("HOST", str, "127.0.0.1"))
    command.add_argument("--port", type=_port, default=_env("PORT", _port, 8080))
    command.add_argument("--admin-host", default=_env("ADMIN_HOST", str, "127.0.0.1"))
    command.add_argument("--admin-port", type=_port, default=_env("ADMIN_PORT", _port, 8081))
    command.add_argument("--workers", type=_one_or_more, default=_env("WORKERS", _one_or_more, 1))


def _explain_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("id", nargs="?", metavar="ID", help="x-arriero-decision or x-request-id of an answer")
    command.add_argument("--route", metavar="R", help="a call that is not made: its route")
    command.add_argument("--prompt-tokens", type=_count, metavar="N")
    command.add_argument("--max-tokens", type=_one_or_more, metavar="N")
    command.add_argument("--stream", action="store_true")
    command.add_argument("--feature", action="append", default=[], metavar="F")
    command.add_argument("--label", action="append", default=[], metavar="K=V")
    command.add_argument("--json", action="store_true", help="for programs")
    _admin_flags(command)


def _admin_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--admin-url", default=_admin_url())
    command.add_argument("--config", metavar="FILE", default=_env("CONFIG", str, None))


def _admin_url() -> str:
    """Where the gateway of this environment tells of itself."""
    url: str = _env("ADMIN_URL", str, f"http://127.0.0.1:{_env('ADMIN_PORT', _port, 8081)}")
    return url


class Origin(NamedTuple):
    """A config, where it came from, and what to say about it."""

    config: Config
    text: str
    notes: Sequence[str] = ()
    file: ConfigFile | None = None


@contextlib.contextmanager
def _configured(file: str | None) -> Iterator[Origin]:
    """The config in the order of the interface: file, ./arriero.yaml, environment, sandbox."""
    path = Path(file) if file else Path("arriero.yaml")
    if file or path.exists():
        config_file = ConfigFile(path)
        yield Origin(config_file.read(), str(path), file=config_file)
        return
    found = environment.find(os.environ, Catalog.load(), datetime.now(UTC).date())
    if found.document is not None:
        made = f"made from the credentials in the environment ({', '.join(found.document['providers'])})"
        with loading.naming(made):
            config, left_out = environment.openable(loading.build({**found.document, **environment.keys(os.environ)}))
        yield Origin(config, made, [*found.notes, *left_out])
        return
    with _sandbox_box() as text:
        note = "these are clouds in a box on this machine: set GROQ_API_KEY, VLLM_URL, … or write arriero.yaml to leave"
        document = {**loading.mapping(yaml_file.parse(text), "the sandbox"), **environment.keys(os.environ)}
        config, left_out = environment.openable(loading.build(document))
        yield Origin(config, "the built-in sandbox", [note, *found.notes, *left_out])


@contextlib.contextmanager
def _sandbox_box() -> Iterator[str]:
    """The clouds in a box in a thread, on their usual ports or, where those are taken, on free ones."""
    from sandbox.run import Sandbox  # only who has no cloud needs it

    with contextlib.ExitStack() as stack:
        try:
            port = _env("SANDBOX_PORT", _port, 9100)
            box = stack.enter_context(Sandbox.in_thread(port=port, believable=True))
        except OSError:
            box = stack.enter_context(Sandbox.in_thread(port=0, believable=True))
        yield box.config_text()


def _serve(arguments: Arguments) -> int:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until somebody can tell what it asks for
    listen = Listen(arguments.host, arguments.port, arguments.admin_host, arguments.admin_port)
    with _configured(arguments.config) as origin:
        if arguments.workers == 1:
            return _run(lambda: _served(origin, listen, 0))
        workers.check(origin.config, arguments.workers)
        return workers.Workers(listen, arguments.workers, lambda at, n: _run(lambda: _served(origin, at, n))).run()


async def _served(origin: Origin, listen: Listen, worker: int) -> int:
    """One gateway, to its end; of several the first shows the screen."""
    kept = storage(os.environ.get("ARRIERO_DATA"), lasting=origin.file is not None)
    with loading.naming(origin.text):
        gateway = Gateway(origin.config, storage=kept)

    notes = [*origin.notes, *([kept.note] if kept.note and origin.config.store.ledger is None else [])]

    def shown(found: Running) -> str:
        if worker:
            return f"worker {worker} is ready, admin on port {found.admin_port}"
        return screen(gateway, found, listen.host, origin.text, notes)

    return await serve(gateway, listen, say, shown, origin.file)


def _run(work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    try:
        import uvloop  # the faster loop where it exists
    except ImportError:
        return asyncio.run(work())
    return uvloop.run(work())


def _check(arguments: Arguments) -> int:
    file = Path(arguments.file)
    config = loading.read(file)
    with loading.naming(str(file)):
        found = asyncio.run(warnings(config, datetime.now(UTC).date(), reach=not arguments.offline))
    for line in found:
        say(f"warning: {line}")
    sizes = (("account", config.accounts), ("route", config.routes), ("warning", found))
    say(f"{file} is good: " + ", ".join(f"{len(them)} {word}{'s' * (len(them) != 1)}" for word, them in sizes))
    return 0


def _schema(arguments: Arguments) -> int:
    print(json.dumps(schema(), indent=2))  # noqa: T201
    return 0


def _models(arguments: Arguments) -> int:
    catalog = Catalog.load()
    rows = catalog.rows(arguments.cloud)
    if not rows:
        clouds = sorted({row.cloud for row in catalog.rows()})
        raise unknown("--cloud", arguments.cloud, clouds, "cloud")
    print(to_json(rows) if arguments.json else table(rows, datetime.now(UTC).date()))  # noqa: T201
    return 0


def _sandbox(arguments: Arguments) -> int:
    from sandbox.run import main as run_sandbox  # its own program; not part of serving

    try:
        return run_sandbox(["--port", str(arguments.port), *(["--print-config"] if arguments.print_config else [])])
    except OSError as error:
        reason = f"cannot listen there and on the ports after it: {os.strerror(error.errno or 0)}; choose another"
        raise ConfigError("--port", f"{arguments.port}: {reason}") from error
