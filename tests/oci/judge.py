"""Asks Oracle's own SDK, in the environment that has it, and keeps what it said of signatures.

`python -m tests.oci.judge` writes golden_signatures.json anew."""

import email.utils
import json
import subprocess
from pathlib import Path
from typing import Any

from sandbox import _oci_demo as demo
from tests.needs import need
from tests.oci.calls import PEM

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-oci" / "bin" / "python"
GOLDEN = Path(__file__).with_name("golden_signatures.json")
CONFIG = {
    "tenancy": demo.TENANCY,
    "user": demo.USER,
    "fingerprint": demo.FINGERPRINT,
    "key_content": PEM,
}


def ask_sdk(*tasks: dict[str, Any]) -> list[Any]:
    """What the SDK makes of each task; see sdk_judge.py."""
    need("Oracle's SDK in .venv-oci (make .venv-oci/.installed)", PYTHON.exists())
    script = Path(__file__).with_name("sdk_judge.py")
    done = subprocess.run([PYTHON, script], input=json.dumps(tasks), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


def cases() -> list[dict[str, Any]]:
    """What is signed: bodies of all kinds, hosts with and without ports, keys and tokens."""
    bodies = ["{}", '{"text":"né 🦙"}', "x" * 3_000]
    host = "inference.generativeai.us-chicago-1.oci.oraclecloud.com"
    out = []
    for number, body in enumerate(bodies):
        for place in (host, "127.0.0.1:9109"):
            wall = 1_763_820_000 + 86_400.0 * number
            out.append(
                {
                    "do": "sign",
                    "url": f"https://{place}/20231130/actions/chat",
                    "target": "/20231130/actions/chat",
                    "host": place,
                    "wall": wall,
                    "date": email.utils.formatdate(wall, usegmt=True),
                    "body": body,
                    "token": "eyJ.session.token" if number % 2 else None,
                }
            )
    return out


def signed_by_sdk(tasks: list[dict[str, Any]]) -> list[Any]:
    key = {"tenancy": demo.TENANCY, "user": demo.USER, "fingerprint": demo.FINGERPRINT, "key": PEM}
    return ask_sdk(*({**task, **key} for task in tasks))


if __name__ == "__main__":
    asked = cases()
    kept = [{**task, "headers": found} for task, found in zip(asked, signed_by_sdk(asked), strict=True)]
    GOLDEN.write_text(json.dumps(kept, indent=1) + "\n")
