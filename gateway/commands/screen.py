"""The start screen: where it listens, what it routes at which price, which key to use, what to paste."""

from collections.abc import Sequence

from gateway.app import Gateway
from gateway.lane import Lane, Route
from gateway.prices import usd
from gateway.serve import Running


def screen(gateway: Gateway, running: Running, host: str, origin: str, notes: Sequence[str]) -> str:
    """One screen of text. `origin` says where the config came from."""
    base = f"http://{_shown_host(host)}:{running.port}"
    lines = [f"Arriero listens on {base}/v1, admin on port {running.admin_port}", f"Config: {origin}"]
    lines += [f"Note: {note}" for note in notes]
    lines.append("")
    for route in gateway.fleet.routes.values():
        lines += _route(route)
    example = next(iter(gateway.fleet.routes), "")
    key = _key(gateway)
    lines += ["", key[1], "", *_paste(base, example, key[0])]
    return "\n".join(lines)


def _route(route: Route) -> list[str]:
    policies = " > ".join(policy.name for policy in route.policies)
    lanes = ", ".join(_lane(lane) for lane in route.lanes.values())
    return [f"  {route.name}  ({policies})", f"    {lanes}"]


def _lane(lane: Lane) -> str:
    price = lane.deployment.price
    if lane.deployment.gpu_nano_per_s:
        return f"{lane.deployment.name} (own GPUs)"
    return f"{lane.deployment.name} " + (f"${usd(price.input)}/{usd(price.output)}" if price else "(no price)")


def _shown_host(host: str) -> str:
    """As a URL on this machine has it."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _key(gateway: Gateway) -> tuple[str, str]:
    """The key to paste, and a word about it."""
    if gateway.keyring.anonymous:
        return "any", "Key: any (no keys in the config)"
    names = ", ".join(gateway.keyring.names()) or "none"
    more = f" and {len(gateway.issued)} made at run time" if gateway.issued.offered else ""
    return "$ARRIERO_KEY", f"Keys: {names} (from the config){more}"


def _paste(base: str, model: str, key: str) -> list[str]:
    """A call with curl, and one in three lines of Python."""
    messages = '[{"role": "user", "content": "Hello"}]'
    imports, quoted = (
        ("import os, openai", 'os.environ["ARRIERO_KEY"]') if key[0] == "$" else ("import openai", f'"{key}"')
    )
    return [
        f'  curl {base}/v1/chat/completions -H "authorization: Bearer {key}" -H "content-type: application/json" \\',
        f"""    -d '{{"model": "{model}", "messages": {messages}}}'""",
        "",
        f"  {imports}",
        f'  client = openai.OpenAI(base_url="{base}/v1", api_key={quoted})',
        f'  print(client.chat.completions.create(model="{model}", messages={messages}).choices[0].message.content)',
    ]
