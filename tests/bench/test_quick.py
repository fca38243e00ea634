"""The bench runs from one end to the other, and its report divides what it says it divides."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import need

ROOT = Path(__file__).resolve().parents[2]


def rows(text: str) -> dict[str, list[str]]:
    """The rows of all tables by their first cell; a second row of the same name is called `by name`."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith("| -"):
            name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            found[f"by {name}" if name in found else name] = cells
    return found


def number(cell: str) -> float:
    match = re.match(r"[-+]?[\d,.]+", cell)
    assert match, cell
    return float(match[0].replace(",", ""))


@pytest.mark.timeout(180)
def test_a_quick_bench_measures_nginx_and_arriero_and_writes_their_ratio(tmp_path: Path) -> None:
    need("wrk, the load of the bench", shutil.which("wrk") is not None)
    need("nginx, the upstream of the bench", shutil.which("nginx") is not None or Path("/usr/sbin/nginx").exists())
    need("redis-server, where limits are counted", shutil.which("redis-server") is not None)
    need("two cores for the bench", len(os.sched_getaffinity(0)) > 1)
    out = tmp_path / "results.md"
    argv = [sys.executable, "-m", "bench", "--quick", "--only", "nginx,arriero", "--out", str(out)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = rows(out.read_text())
    assert all(number(cell) > 0 for cell in table["nginx"] + table["Arriero"])
    ratio = number(table["Arriero"][0]) / number(table["nginx"][0])
    assert number(table["by nginx"][0]) == pytest.approx(ratio, abs=0.01)
    passed, bedrock = table["groq"], table["bedrock"]
    assert number(bedrock[1]) == pytest.approx(number(bedrock[0]) / number(passed[0]), abs=0.02)
    assert (bedrock[4], table["oci"][4]) == ("groq", "oci-openai")
    assert number(table["oci"][3]) > 0
    plain = table["nothing more"]
    for part in ("limits in memory", "limits in Redis", "traces"):
        rate, ratio, cpu, more, _ = table[part]
        assert number(ratio) == pytest.approx(number(rate) / number(plain[0]), abs=0.01)
        assert number(more) == pytest.approx(number(cpu) - number(plain[2]), abs=1)


def test_an_unknown_contender_is_refused_by_name() -> None:
    argv = [sys.executable, "-m", "bench", "--quick", "--binary", "caddy=/bin/true"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no contender is called caddy" in done.stderr
