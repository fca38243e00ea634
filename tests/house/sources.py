"""The house's own Python files, and what each of them imports."""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("gateway", "providers", "policies", "sandbox")


@cache
def modules() -> Mapping[str, Path]:
    """Every module of the four packages by its dotted name."""
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(name: str) -> frozenset[str]:
    """All that a module imports, at its top or later, as dotted names; of our own packages the modules themselves."""
    found = set(_imported(tree(modules()[name])))
    return frozenset(name if name in modules() else _module(name) for name in found)


def _imported(source: ast.Module) -> Iterator[str]:
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _module(name: str) -> str:
    """`gateway.types.Call` as `gateway.types`; a foreign name as it is."""
    while name.partition(".")[0] in PACKAGES and name not in modules():
        name = name.rpartition(".")[0]
    return name


def ours(name: str) -> frozenset[str]:
    """What it imports of the four packages; a package by itself (`import sandbox`) is not a module."""
    return frozenset(found for found in imports(name) if found.partition(".")[0] in PACKAGES and "." in found)
