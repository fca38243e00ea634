"""Writes sandbox/oci_models.json from Oracle's own SDK: the attributes of a GENERIC chat request, and their kinds.

Run in the environment that has the SDK: `.venv-oci/bin/python tests/oci/sdk_models.py > sandbox/oci_models.json`."""

import inspect
import json
import re
import sys

from oci.generative_ai_inference import models

ROOT = "ChatDetails"
SKIPPED = re.compile(r"Cohere|Citation|WebSearch|ApproximateLocation|Grounding|Document|Audio|Video")
"""What a GENERIC request to a Llama cannot have."""


def attribute_kinds(name):
    """{attribute on the wire: {"kind", "required", "values"}} of one class."""
    found, source = getattr(models, name)(), inspect.getsource(getattr(models, name))
    out = {}
    for ours, wire in found.attribute_map.items():
        kind = {"kind": found.swagger_types[ours]}
        if re.search(rf"\*\*\[Required\]\*\* Gets the {ours} of", source):
            kind["required"] = True
        setter = re.search(rf"    def {ours}\(self, {ours}\):(.*?)(?=\n    def |\n    @|\Z)", source, re.S)
        values = setter and re.search(r"allowed_values = \[(.*?)\]", setter[1], re.S)
        if values:
            kind["values"] = [v for v in re.findall(r'"([^"]*)"', values[1]) if v != "UNKNOWN_ENUM_VALUE"]
        out[wire] = kind
    return out


def subtypes(name):
    """The attribute that tells the kinds of a class apart, and the class of each value."""
    source = inspect.getsource(getattr(models, name))
    where = re.search(r"object_dictionary\['(\w+)'\]", source)
    pairs = re.findall(r"if type == '([^']*)':\s+return '([^']*)'", source)
    return (where[1], dict(pairs)) if where and pairs else None


def collected():
    """Every class that a chat request reaches."""
    waiting, out = [ROOT], {}
    while waiting:
        name = waiting.pop(0)
        if name in out or not hasattr(models, name) or SKIPPED.search(name):
            continue
        out[name] = {"attributes": attribute_kinds(name)}
        told = subtypes(name)
        if told:
            kinds = {value: kind for value, kind in told[1].items() if not SKIPPED.search(kind)}
            out[name] |= {"by": told[0], "kinds": kinds}
            waiting += kinds.values()
        waiting += re.findall(r"[A-Z]\w+", " ".join(kind["kind"] for kind in out[name]["attributes"].values()))
    return dict(sorted(out.items()))


if __name__ == "__main__":
    json.dump(collected(), sys.stdout, indent=1)
    sys.stdout.write("\n")
