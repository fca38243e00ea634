"""One call with the official SDK: only base_url and the key are Arriero's."""

import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("ARRIERO_URL", "http://127.0.0.1:8080/v1"), api_key=os.environ.get("ARRIERO_KEY", "any")
)
raw = client.chat.completions.with_raw_response.create(
    model=os.environ.get("ARRIERO_MODEL", "llama-3.1-8b"),
    messages=[{"role": "user", "content": "What is an arriero?"}],
    max_tokens=40,
)
answer = raw.parse()
print(answer.choices[0].message.content)
print(f"from {raw.headers['x-arriero-deployment']} for ${raw.headers['x-arriero-cost-usd']}")
print(f"why there: arriero explain {raw.headers['x-arriero-decision']}")
