"""The `arriero` command: words to parts, errors to exit codes.

Exit codes: 0 done, 1 failed, 2 bad config or usage, 130 interrupted. Words for people go to stderr, data to stdout. Every flag has an ARRIERO_* twin."""

import argparse
import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from gateway import environment, loading
from gateway.app import Gateway
from gateway.catalog import Catalog, table, to_json
from gateway.check import warnings
from gateway.config import Config
from gateway.errors import ArrieroError, ConfigError
from gateway.remote import explain
from gateway.schema import schema
from gateway.screen import screen
from gateway.serve import Listen, say, serve

Arguments = argparse.Namespace


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code."""
    arguments = parser().parse_args(argv)
    try:
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
    root = argparse.ArgumentParser(
        prog="arriero", description="One OpenAI-compatible API in front of Llama on every cloud."
    )
    commands = root.add_subparsers(required=True, metavar="COMMAND")
    _serve_flags(commands.add_parser("serve", help="serve the API"))
    check = commands.add_parser("check", help="check a config file")
    check.add_argument("file", metavar="FILE")
    check.add_argument("--offline", action="store_true", help="do not try to reach the deployments")
    check.set_defaults(command=_check)
    commands.add_parser("schema", help="JSON Schema of the config").set_defaults(command=_schema)
    models = commands.add_parser("models", help="the catalogue")
    models.add_argument("--cloud", metavar="C")
    models.add_argument("--json", action="store_true")
    models.set_defaults(command=_models)
    _explain_flags(commands.add_parser("explain", help="why a call went where it went, or would go"))
    sandbox = commands.add_parser("sandbox", help="the clouds in a box alone")
    sandbox.add_argument("--port", type=int, default=_env_int("SANDBOX_PORT", 9100))
    sandbox.add_argument("--print-config", action="store_true", help="write the config that uses them, and end")
    sandbox.set_defaults(command=_sandbox)
    return root


def _env(name: str, default: str) -> str:
    return os.environ.get(f"ARRIERO_{name}") or default


def _env_int(name: str, default: int) -> int:
    text = os.environ.get(f"ARRIERO_{name}")
    if not text:
        return default
    if not text.isdigit():
        raise SystemExit(f"arriero: ARRIERO_{name} must be a number, not '{text}'")
    return int(text)


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is not a port (0 to 65535)")
    return int(text)


def _serve_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", metavar="FILE", default=os.environ.get("ARRIERO_CONFIG"))
    command.add_argument("--host", default=_env("HOST", "127.0.0.1"))
    command.add_argument("--port", type=_port, default=_env_int("PORT", 8080))
    command.add_argument("--admin-host", default=_env("ADMIN_HOST", "127.0.0.1"))
    command.add_argument("--admin-port", type=_port, default=_env_int("ADMIN_PORT", 8081))
    command.add_argument("--workers", type=int, default=_env_int("WORKERS", 1))
    command.set_defaults(command=_serve)


def _explain_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("id", nargs="?", metavar="ID", help="x-arriero-decision or x-request-id of an answer")
    command.add_argument("--route", metavar="R")
    command.add_argument("--prompt-tokens", type=int, metavar="N")
    command.add_argument("--max-tokens", type=int, metavar="N")
    command.add_argument("--stream", action="store_true")
    command.add_argument("--feature", action="append", default=[], metavar="F")
    command.add_argument("--label", action="append", default=[], metavar="K=V")
    command.add_argument("--json", action="store_true")
    command.add_argument("--admin-url", default=_env("ADMIN_URL", "http://127.0.0.1:8081"))
    command.add_argument("--config", metavar="FILE", default=os.environ.get("ARRIERO_CONFIG"))
    command.set_defaults(command=explain)


class Origin(NamedTuple):
    """A config, where it came from, and what to say about it."""

    config: Config
    text: str
    notes: Sequence[str] = ()


@contextlib.contextmanager
def _configured(file: str | None) -> Iterator[Origin]:
    """The config in the order of the interface: file, ./arriero.yaml, environment, sandbox."""
    path = Path(file) if file else Path("arriero.yaml")
    if file or path.exists():
        yield Origin(loading.read(path), str(path))
        return
    found = environment.find(os.environ, Catalog.load(), datetime.now(UTC).date())
    if found is not None:
        accounts = ", ".join(found.document["providers"])
        yield Origin(
            loading.build(found.document), f"made from the credentials in the environment ({accounts})", found.notes
        )
        return
    with _sandbox_box() as text:
        note = "these are clouds in a box on this machine: set GROQ_API_KEY, VLLM_URL, … or write arriero.yaml to leave"
        yield Origin(loading.parse(text), "the built-in sandbox", [note])


@contextlib.contextmanager
def _sandbox_box() -> Iterator[str]:
    """The clouds in a box in a thread, on their usual ports or, where those are taken, on free ones."""
    from sandbox.run import Sandbox  # only who has no cloud needs it

    with contextlib.ExitStack() as stack:
        try:
            box = stack.enter_context(Sandbox.in_thread(port=_env_int("SANDBOX_PORT", 9100), believable=True))
        except OSError:
            box = stack.enter_context(Sandbox.in_thread(port=0, believable=True))
        yield box.config_text()


def _serve(arguments: Arguments) -> int:
    if arguments.workers != 1:
        raise ConfigError(
            "--workers", "more than one worker needs shared state, which this version does not offer: run replicas"
        )
    listen = Listen(arguments.host, arguments.port, arguments.admin_host, arguments.admin_port)
    with _configured(arguments.config) as origin:

        async def run() -> int:
            gateway = Gateway(origin.config)
            return await serve(
                gateway, listen, say, lambda found: screen(gateway, found, listen.host, origin.text, origin.notes)
            )

        return _run(run)


def _run(work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    try:
        import uvloop  # the faster loop where it exists
    except ImportError:
        return asyncio.run(work())
    return uvloop.run(work())


def _check(arguments: Arguments) -> int:
    config = loading.read(Path(arguments.file))
    found = asyncio.run(warnings(config, Catalog.load(), datetime.now(UTC).date(), reach=not arguments.offline))
    for line in found:
        say(f"warning: {line}")
    say(
        f"{arguments.file} is good: {len(config.accounts)} accounts, {len(config.routes)} routes, {len(found)} warnings"
    )
    return 0


def _schema(arguments: Arguments) -> int:
    print(json.dumps(schema(), indent=2))  # noqa: T201
    return 0


def _models(arguments: Arguments) -> int:
    catalog = Catalog.load()
    rows = catalog.rows(arguments.cloud)
    if not rows:
        clouds = sorted({row.cloud for row in catalog.rows()})
        raise ConfigError("--cloud", f"unknown cloud '{arguments.cloud}'; known: {', '.join(clouds)}")
    print(to_json(rows) if arguments.json else table(rows, datetime.now(UTC).date()))  # noqa: T201
    return 0


def _sandbox(arguments: Arguments) -> int:
    from sandbox.run import main as run_sandbox  # its own program; not part of serving

    return run_sandbox(["--port", str(arguments.port), *(["--print-config"] if arguments.print_config else [])])
