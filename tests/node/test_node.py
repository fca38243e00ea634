"""The official Node SDK: its own checks, in essentials.test.mjs, run by Node's own test runner."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from sandbox.run import Sandbox
from tests.harness import Served
from tests.needs import need

HERE = Path(__file__).parent
CHECKS = re.findall(r'^test\("(.*?)"', (HERE / "essentials.test.mjs").read_text(), re.MULTILINE)


def test_every_essential_of_the_node_sdk_holds(gateway: Served, box: Sandbox):
    need("node", shutil.which("node") is not None)
    need("tests/node/node_modules (make test installs it)", (HERE / "node_modules" / "openai").is_dir())
    box.reset()
    done = subprocess.run(
        ["node", "--test", "--test-reporter=tap", "essentials.test.mjs"],
        cwd=HERE,
        env={**os.environ, "GATEWAY": gateway.base_url, "BOX": box.control_url},
        capture_output=True,
        text=True,
        timeout=100,
    )
    box.reset()
    passed = set(re.findall(r"^ok \d+ - (.*)$", done.stdout, re.MULTILINE))
    assert passed == set(CHECKS), done.stdout + done.stderr
    assert len(CHECKS) >= 7
    assert done.returncode == 0
