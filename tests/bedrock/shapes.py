"""Makes sandbox/bedrock_shapes.json from botocore: `python -m tests.bedrock.shapes`. See test_shapes.py."""

import json
from pathlib import Path
from typing import Any

import botocore
import botocore.session

PLACE = Path(__file__).parents[2] / "sandbox" / "bedrock_shapes.json"
OPERATIONS = ("Converse", "ConverseStream")
LIMITS = ("min", "max", "pattern", "enum")


def shapes() -> dict[str, Any]:
    """The input shapes of the operations with their limits, and the errors with their statuses."""
    model = botocore.session.get_session().get_service_model("bedrock-runtime")
    found: dict[str, Any] = {}
    errors: dict[str, int] = {}
    for name in OPERATIONS:
        operation = model.operation_model(name)
        _collect(operation.input_shape, found)
        for shape in operation.error_shapes:
            errors[shape.name] = shape.metadata["error"]["httpStatusCode"]
    return {"source": f"botocore {botocore.__version__}", "errors": errors, "shapes": dict(sorted(found.items()))}


def _collect(shape: Any, found: dict[str, Any]) -> None:
    if shape.name in found:
        return
    said: dict[str, Any] = {"type": shape.type_name}
    found[shape.name] = said
    said |= {limit: shape.metadata[limit] for limit in LIMITS if limit in shape.metadata}
    if shape.type_name == "structure":
        if getattr(shape, "is_document_type", False):
            said["type"] = "document"
            return
        in_body = {name: member for name, member in shape.members.items() if "location" not in member.serialization}
        said["members"] = {name: member.name for name, member in in_body.items()}
        said["required"] = [name for name in shape.required_members if name in in_body]
        if getattr(shape, "is_tagged_union", False):
            said["union"] = True
        for member in in_body.values():
            _collect(member, found)
    elif shape.type_name == "list":
        said["member"] = shape.member.name
        _collect(shape.member, found)
    elif shape.type_name == "map":
        said["key"], said["value"] = shape.key.name, shape.value.name
        _collect(shape.key, found)
        _collect(shape.value, found)


def text() -> str:
    """The file: one shape a line."""
    found = shapes()
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(shape)}" for name, shape in found.pop("shapes").items())
    return f'{json.dumps(found)[:-1]}, "shapes": {{\n{lines}\n}}}}\n'


if __name__ == "__main__":
    PLACE.write_text(text())
