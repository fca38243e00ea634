"""A streamed answer, word by word; one that breaks off says so instead of looking whole."""

import os
import sys

from openai import APIError, OpenAI

client = OpenAI(
    base_url=os.environ.get("ARRIERO_URL", "http://127.0.0.1:8080/v1"), api_key=os.environ.get("ARRIERO_KEY", "any")
)
stream = client.chat.completions.create(
    model=os.environ.get("ARRIERO_MODEL", "llama-3.1-8b"),
    messages=[{"role": "user", "content": "Tell a short story about llamas."}],
    stream=True,
    stream_options={"include_usage": True},
)
try:
    for chunk in stream:
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
        if chunk.usage:
            print(f"\n{chunk.usage.completion_tokens} tokens")
except APIError as error:
    sys.exit(f"\nbroke off: {error.code}")
