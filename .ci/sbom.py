"""Writes what an image holds as CycloneDX 1.6: this environment's Python packages and Debian's around it."""

import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

DPKG = Path("/var/lib/dpkg/status")


def python_packages() -> Iterator[dict[str, object]]:
    """Every installed distribution, once."""
    for found in distributions():
        name = re.sub(r"[-_.]+", "-", found.name).lower()
        text = found.metadata.get("License-Expression") or found.metadata.get("License") or ""
        licence = {"licenses": [{"license": {"name": text.splitlines()[0][:100]}}]} if text else {}
        yield {
            "type": "library",
            "name": name,
            "version": found.version,
            "purl": f"pkg:pypi/{name}@{found.version}",
            **licence,
        }


def debian_packages() -> Iterator[dict[str, object]]:
    """Every installed Debian package, if the image has dpkg."""
    for paragraph in DPKG.read_text().split("\n\n") if DPKG.exists() else []:
        fields = dict(re.findall(r"^(Package|Version|Architecture|Status): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            name, version, arch = fields["Package"], fields["Version"], fields["Architecture"]
            purl = f"pkg:deb/debian/{name}@{version}?arch={arch}"
            yield {"type": "library", "name": name, "version": version, "purl": purl}


def main() -> None:
    components = sorted([*python_packages(), *debian_packages()], key=lambda found: str(found["purl"]))
    for found in components:
        found["bom-ref"] = found["purl"]
    document = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": components}
    json.dump(document, sys.stdout, indent=1)


main()
