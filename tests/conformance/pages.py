"""The pages that are made from the matrix: docs/matrix.md and README's table of clouds; run, it says which is stale."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.config import plugins
from tests.conformance import matrix

ROOT = Path(__file__).parents[2]
PAGE, README = ROOT / "docs" / "matrix.md", ROOT / "README.md"
BEGIN, END = "<!-- made by `make matrix`, not by hand -->\n", "<!-- end of what is made -->\n"
SHOWN = {
    "tools": ("a tool is called", "two tools at once", "a tool with a nested schema", "a tool's result"),
    "forced tools": ("a tool must be called", "this tool must be called"),
    "JSON mode": ("JSON mode",),
    "JSON Schema": ("a JSON Schema", "a JSON Schema with references and unions"),
    "`n`": ("two choices",),
    "logprobs": ("log probabilities", "log probabilities and three alternatives"),
    "seed": ("seed",),
    "penalties": ("penalties",),
    "pictures": ("a picture",),
    "embeddings": ("an embedding", "three embeddings as numbers"),
}
"""README's columns, each with its conversations; in others the clouds do not differ, or hardly."""
WORDS = {"pass": "yes", "refused": "no"}

INTRO = f"""# What each cloud does

{BEGIN}
{{count}} conversations, sent with OpenAI's own Python SDK, plain and streamed, through a running gateway to the
sandbox of every cloud, each alone, on a route with `capability: {{{{missing: emulate}}}}`. What the SDK made of the
answer is held against what the cloud says it sent (`tests/conformance`).

| word | meaning |
|---|---|
| pass | as OpenAI does it: every character, call, token and finish reason as the cloud sent it |
| emulated, clamped, dropped | answered, and `x-arriero-degraded` names the parameter and what became of it |
| refused | 400 that names the feature, before anything is sent; another cloud of the route is taken if there is one |

A cell with two words is of the plain answer and of the stream. Text is asked of a cloud's first Llama, tools, pictures
and embeddings of its first weights that have them: at Vertex AI tools are Llama 4 Maverick's. The sandbox is as strict
as what is known of the real clouds; the sources stand at the head of each `sandbox/<cloud>.py`. Weights that see are
said to (`features: [+vision]`) where the catalogue is not sure of it.
"""


def page(cells: matrix.Matrix) -> str:
    """docs/matrix.md."""
    parts = [INTRO.format(count=len(matrix.CONVERSATIONS))]
    for area in dict.fromkeys(one.area for one in matrix.CONVERSATIONS.values()):
        head = ["", *matrix.CLOUDS]
        rows = [
            [name, *(_both(cells, name, cloud) for cloud in matrix.CLOUDS)]
            for name, one in matrix.CONVERSATIONS.items()
            if one.area == area
        ]
        parts.append(f"## {area[0].upper()}{area[1:]}\n\n{_table(head, rows)}")
    return "\n".join(parts)


def _both(cells: matrix.Matrix, name: str, cloud: str) -> str:
    """What came of a conversation, in one word where plain and streamed are alike."""
    came = [cells[name, mode][cloud] for mode in matrix.CONVERSATIONS[name].modes]
    return " / ".join(dict.fromkeys(came) if len(set(came)) == 1 else came)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def clouds(cells: matrix.Matrix) -> str:
    """README's table: what each provider's own class says of it, and the matrix in a word or two for each column."""
    rows, notes = [], []
    for name in sorted(plugins.names("providers"), key=_place):
        account: Any = plugins.load("providers", name)
        if not account.__module__.startswith("providers."):
            continue  # of another package, installed here by chance
        summed = [_summed(cells, conversations, name) for conversations in SHOWN.values()]
        rows.append([account.title, f"`{name}`", account.credentials, *summed])
        if vars(account).get("remark"):
            notes.append(f"- `{name}`: {account.remark}\n")
    return _table(["Cloud", "`type`", "Credential", *SHOWN], rows) + "\n" + "".join(notes)


def _place(name: str) -> tuple[int, str]:
    """In the order of the matrix; who is not in it last."""
    return (matrix.CLOUDS.index(name) if name in matrix.CLOUDS else len(matrix.CLOUDS), name)


def _summed(cells: matrix.Matrix, conversations: Iterable[str], cloud: str) -> str:
    """A word of plain answers and, where it is another, one of streams: yes, emulated, no, or partly."""
    if cloud not in matrix.CLOUDS:
        return "?"
    came: dict[str, set[str]] = {}
    for name in conversations:
        for mode in matrix.CONVERSATIONS[name].modes:
            word = cells[name, mode][cloud].split(" ")[0]
            came.setdefault(mode, set()).add(WORDS.get(word, word))
    words = [found.pop() if len(found) == 1 else "partly" for found in came.values()]
    return " / ".join(dict.fromkeys(words))


def made(cells: matrix.Matrix) -> Mapping[Path, str]:
    """The pages as they should be."""
    before, begin, rest = README.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, "README has lost the mark where its table of clouds begins"
    assert end, "README has lost the mark where its table of clouds ends"
    return {PAGE: page(cells), README: f"{before}{begin}\n{clouds(cells)}\n{end}{after}"}


def stale() -> list[str]:
    """The pages that are not what the matrix makes of them."""
    found = made(matrix.golden()).items()
    return [str(path.relative_to(ROOT)) for path, text in found if not path.exists() or path.read_text() != text]


def write() -> None:
    for path, text in made(matrix.golden()).items():
        path.write_text(text)


if __name__ == "__main__":
    names = stale()
    print(*(f"{name} is not what the matrix makes of it: run `make matrix`" for name in names), sep="\n", end="")
    sys.exit(1 if names else 0)
