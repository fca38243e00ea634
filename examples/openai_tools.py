"""A model that calls a function of yours, and an answer made with what the function said."""

import json
import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("ARRIERO_URL", "http://127.0.0.1:8080/v1"), api_key=os.environ.get("ARRIERO_KEY", "any")
)
model = os.environ.get("ARRIERO_MODEL", "llama-3.1-8b")


def weather(city: str) -> str:
    return f"It is sunny in {city}."


tool = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "What the weather is like in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
messages = [{"role": "user", "content": "What is the weather in Cusco?"}]
asked = client.chat.completions.create(model=model, messages=messages, tools=[tool], tool_choice="required")
message = asked.choices[0].message
messages.append(message.model_dump(exclude_none=True))
for call in message.tool_calls or []:
    said = weather(**json.loads(call.function.arguments))
    print(f"{call.function.name}({call.function.arguments}) = {said}")
    messages.append({"role": "tool", "tool_call_id": call.id, "content": said})
answer = client.chat.completions.create(model=model, messages=messages, tools=[tool])
print(answer.choices[0].message.content)
