"""Conversations whose answer has a form: tools alone, in parallel, forced, with results; JSON free and by a schema."""

import json
from typing import Any

import jsonschema

from tests.conformance.conversation import Conversation, Fields, Mismatch, Seen, asking, assistant, expect, user


def tool(name: str, **parameters: Any) -> Fields:
    schema = {"type": "object", "properties": parameters, "required": list(parameters)} if parameters else {}
    function = {"name": name, "description": f"Gets the {name}", **({"parameters": schema} if schema else {})}
    return {"type": "function", "function": function}


TEXT = {"type": "string"}
WEATHER, TIME = tool("weather", city=TEXT), tool("time", zone=TEXT)
NESTED = tool(
    "book",
    trip={
        "type": "object",
        "properties": {
            "from": TEXT,
            "to": TEXT,
            "seats": {"type": "array", "items": {"type": "integer"}, "minItems": 2},
            "class": {"type": "string", "enum": ["sencilla", "económica 🦙"]},
        },
        "required": ["from", "to", "seats", "class"],
    },
)
DEMAND = {"type": "function", "function": {"name": "time"}}


def called(number: str, name: str, **arguments: Any) -> Fields:
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": f"call_{number}", "type": "function", "function": function}


def result(number: str, text: str) -> Fields:
    return {"role": "tool", "tool_call_id": f"call_{number}", "content": text}


def calls(*names: str):
    """Those functions were called and nothing was said; ids are there and differ."""

    def check(seen: Seen) -> None:
        found = seen.answer.choices[0].message.tool_calls or []
        expect([name for name, _ in seen.tool_calls] == list(names), f"{[name for name, _ in seen.tool_calls]} called")
        expect(all(isinstance(arguments, dict) for _, arguments in seen.tool_calls), "arguments are no object")
        expect(len({call.id for call in found}) == len(found) and all(call.id for call in found), "ids are not unique")
        expect(seen.finish in ("tool_calls", "stop"), f"finish_reason is {seen.finish}")

    return check


def one_call(seen: Seen) -> None:
    expect(len(seen.tool_calls) == 1, f"{len(seen.tool_calls)} calls")


def says_something(seen: Seen) -> None:
    expect(seen.text and not seen.answer.choices[0].message.tool_calls, "no words")


def booked(seen: Seen) -> None:
    calls("book")(seen)
    jsonschema.validate(seen.tool_calls[0][1], NESTED["function"]["parameters"])


def cut(seen: Seen) -> None:
    expect(seen.finish == "length", f"finish_reason is {seen.finish}")


SCHEMA = {
    "type": "object",
    "properties": {"name": TEXT, "herds": {"type": "array", "items": {"type": "integer"}}, "wild": {"type": "boolean"}},
    "required": ["name", "herds", "wild"],
    "additionalProperties": False,
}
UNION = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["llama", "alpaca"]},
        "mother": {"anyOf": [{"$ref": "#/$defs/name"}, {"type": "null"}]},
    },
    "required": ["kind", "mother"],
    "$defs": {"name": {"type": "string", "minLength": 3}},
}  # fmt: skip


def schema_format(schema: Fields) -> Fields:
    return {"type": "json_schema", "json_schema": {"name": "animal", "strict": True, "schema": schema}}


def valid(schema: Fields):
    def check(seen: Seen) -> None:
        try:
            jsonschema.validate(json.loads(seen.text), schema)
        except (ValueError, jsonschema.ValidationError) as error:
            raise Mismatch(f"not of the form asked for: {seen.text[:60]!r}") from error

    return check


BOOK = user("Please book.")
ASK = user("How is the weather, and what time is it?")
PAST = [ASK, assistant(None, tool_calls=[called("1", "weather", city="Cuzco ñ 🦙")]), result("1", "sunny ☀")]
TWO = [
    ASK,
    assistant("Let me see.", tool_calls=[called("1", "weather", city="Cuzco"), called("2", "time", zone="PET")]),
    result("1", "sunny"),
    result("2", "noon"),
]
WANTED = {"max_tokens": 200}
JSON_PLEASE = user("Describe a llama as JSON.")

_FORMS = [
    Conversation("a tool is called", "tools", asking(ASK, tools=[WEATHER], **WANTED), calls("weather")),
    Conversation("of two tools the right one", "tools",
                 asking(user("What time is it?"), tools=[WEATHER, TIME], **WANTED), calls("time")),
    Conversation("tools that must not be called", "tools",
                 asking(ASK, tools=[WEATHER], tool_choice="none"), says_something),
    Conversation("tools by default", "tools", asking(ASK, tools=[WEATHER], tool_choice="auto", **WANTED),
                 calls("weather")),
    Conversation("a tool must be called", "tool choice",
                 asking(user("Hello."), tools=[WEATHER], tool_choice="required", **WANTED), calls("weather")),
    Conversation("this tool must be called", "tool choice",
                 asking(user("Hello."), tools=[WEATHER, TIME], tool_choice=DEMAND, **WANTED), calls("time")),
    Conversation("two tools at once", "tools",
                 asking(ASK, tools=[WEATHER, TIME], parallel_tool_calls=True, **WANTED)),
    Conversation("one tool at a time", "tools",
                 asking(ASK, tools=[WEATHER, TIME], parallel_tool_calls=False, **WANTED), one_call),
    Conversation("a tool with a nested schema", "tools", asking(BOOK, tools=[NESTED], **WANTED), booked),
    Conversation("a tool without parameters", "tools", asking(user("ping"), tools=[tool("ping")], **WANTED),
                 calls("ping")),
    Conversation("a tool's call cut by the limit", "tools", asking(BOOK, tools=[NESTED], max_tokens=6),
                 cut),
    Conversation("a tool's result", "tools", asking(*PAST, tools=[WEATHER]), says_something),
    Conversation("two results, and words beside the calls", "tools", asking(*TWO, tools=[WEATHER, TIME]),
                 says_something),
    Conversation("a turn after the results", "tools",
                 asking(*TWO, assistant("At noon."), user("Thanks!"), tools=[WEATHER, TIME], tool_choice="none"),
                 says_something),
    Conversation("results without the tools", "text", asking(*PAST), says_something),
    Conversation("JSON mode", "json", asking(JSON_PLEASE, response_format={"type": "json_object"}, **WANTED),
                 valid({"type": "object"})),
    Conversation("a JSON Schema", "json", asking(JSON_PLEASE, response_format=schema_format(SCHEMA), **WANTED),
                 valid(SCHEMA)),
    Conversation("a JSON Schema with references and unions", "json",
                 asking(JSON_PLEASE, response_format=schema_format(UNION), **WANTED), valid(UNION)),
    Conversation("text as the form", "text", asking(JSON_PLEASE, response_format={"type": "text"})),
]  # fmt: skip
FORMS = [one._replace(route="calls") if one.area.startswith("tool") else one for one in _FORMS]
