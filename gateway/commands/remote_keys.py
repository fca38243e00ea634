"""`arriero keys`: makes, lists, rotates and revokes keys at a running gateway's admin port.

What is made goes to stdout, the key alone, so that scripts can take it; words for people go to stderr."""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import quote, urlencode

from gateway.commands.remote import ask
from gateway.serve import say

Arguments = argparse.Namespace
_BUDGET = re.compile(r"(?P<usd>[^/]+)/(?P<per>[^:]+)(?P<hard>:hard)?")
ONCE = "This is the only time it is shown."


def flags(commands: Any, admin_url: str) -> None:
    """Adds the command and its four words with their flags; `commands` is what argparse calls subparsers."""
    text = "keys that are made at run time"
    keys = commands.add_parser("keys", help=text, description=text, allow_abbrev=False)
    words = keys.add_subparsers(required=True, metavar="create|list|rotate|revoke")

    def word(name: str, text: str, run: Any) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = words.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.add_argument("--admin-url", default=admin_url)
        added.add_argument("--json", action="store_true", help="for programs")
        added.set_defaults(command=run)
        return added

    create = word("create", "make a key; it is shown once", _create)
    create.add_argument("--name", required=True)
    create.add_argument("--routes", metavar="PATTERN,…", help="which routes it may use; else what the token may give")
    create.add_argument("--limits", metavar="rpm=N,tpm=N,concurrent=N", type=_numbers)
    create.add_argument("--budget", metavar="USD/day|month|total[:hard]", type=_budget)
    create.add_argument("--team", help="a team of the config")
    create.add_argument("--labels", metavar="K=V,…", type=_pairs)
    create.add_argument("--expires", metavar="DATE", help="the last day, in UTC, or an RFC 3339 time")
    word("list", "the keys of the config and of run time", _list).add_argument(
        "--all", action="store_true", help="revoked ones as well"
    )
    rotate = word("rotate", "make a new key in the place of another", _rotate)
    rotate.add_argument("name", metavar="NAME")
    rotate.add_argument("--overlap-s", metavar="N", type=float, default=0.0, help="how long the old one goes on")
    word("revoke", "make a key an unknown one, for ever", _revoke).add_argument("name", metavar="NAME")


def _create(arguments: Arguments) -> int:
    routes = arguments.routes.split(",") if arguments.routes is not None else None
    words = {name: getattr(arguments, name) for name in ("name", "limits", "budget", "team", "labels", "expires")}
    said = {name: value for name, value in {**words, "routes": routes}.items() if value is not None}
    found = ask(arguments.admin_url, "/admin/keys", json.dumps(said).encode(), "POST")
    return _shown(
        arguments, found, f"made the key '{found['name']}' ({found['id']}). {ONCE} {found.get('note', '')}".rstrip()
    )


def _rotate(arguments: Arguments) -> int:
    query = urlencode({"overlap_s": arguments.overlap_s})
    found = ask(arguments.admin_url, f"/admin/keys/{quote(arguments.name)}/rotate?{query}", b"", "POST")
    until = f" The old one goes on for {arguments.overlap_s:g} s." if arguments.overlap_s else ""
    return _shown(arguments, found, f"made a new key for '{found['name']}' ({found['id']}). {ONCE}{until}")


def _revoke(arguments: Arguments) -> int:
    found = ask(arguments.admin_url, f"/admin/keys/{quote(arguments.name)}", None, "DELETE")
    say(f"revoked the key '{found['name']}' ({found['id']})")
    if arguments.json:
        print(json.dumps(found, indent=2))  # noqa: T201
    return 0


def _list(arguments: Arguments) -> int:
    found = [key for key in ask(arguments.admin_url, "/admin/keys") if arguments.all or key["state"] != "revoked"]
    print(json.dumps(found, indent=2) if arguments.json else table(found))  # noqa: T201
    return 0


def _shown(arguments: Arguments, found: Mapping[str, Any], words: str) -> int:
    say(words)
    print(json.dumps(found, indent=2) if arguments.json else found["key"])  # noqa: T201
    return 0


def table(keys: Sequence[Mapping[str, Any]]) -> str:
    """A line a key, for people."""
    head = ("name", "id", "source", "state", "team", "routes", "limits", "budget", "expires")
    rows = [head, *(tuple(_cell(name, key[name]) for name in head) for key in keys)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "limits":
        return ",".join(f"{kind}={limit}" for kind, limit in value.items() if isinstance(limit, int)) or "by route"
    if name == "budget":
        return f"{Decimal(value['usd']):f}/{value['per']}" + (":hard" if value["hard"] else "")
    return ",".join(value) if isinstance(value, list) else str(value)


def _pairs(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name and equals and value for name, equals, value in pairs):
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form name=value,name=value")
    return {name: value for name, _, value in pairs}


def _numbers(text: str) -> dict[str, int]:
    try:
        return {name: int(value) for name, value in _pairs(text).items()}
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form rpm=600,tpm=200000") from error


def _budget(text: str) -> dict[str, Any]:
    found = _BUDGET.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form 50/month or 50/month:hard")
    return {"usd": found["usd"], "per": found["per"], "hard": found["hard"] is not None}
