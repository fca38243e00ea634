"""Who is measured, one file each; a new peer is a file and a row here."""

from collections.abc import Mapping
from pathlib import Path

from bench.contender import Contender
from bench.contenders.arriero import Arriero
from bench.contenders.envoy import Envoy
from bench.contenders.nginx import Nginx


def contenders(root: Path, binaries: Mapping[str, str]) -> list[Contender]:
    """Every contender; `binaries` replaces programs by the contender's name. Raises ValueError for an unknown name."""
    ours = [Arriero(root), Arriero(root, "Arriero-no-ledger", "none")]
    found: list[Contender] = [Nginx(), Envoy(root / ".cache" / "bench" / "envoy"), *ours]
    unknown = sorted(binaries.keys() - {contender.name for contender in found})
    if unknown:
        raise ValueError(f"no contender is called {', '.join(unknown)}")
    for contender in found:
        contender.binary = binaries.get(contender.name, contender.binary)
    return found
