#!/bin/sh
# The same with curl: a call, a stream, the models this key may use. Arriero's own headers say where a call went.
set -eu
url=${ARRIERO_URL:-http://127.0.0.1:8080/v1}
key=${ARRIERO_KEY:-any}
model=${ARRIERO_MODEL:-llama-3.1-8b}
messages='[{"role": "user", "content": "What is an arriero?"}]'

ask() {
  curl --silent --show-error --fail-with-body -H "authorization: Bearer $key" -H 'content-type: application/json' "$@"
}

ask -i "$url/chat/completions" -d "{\"model\": \"$model\", \"max_tokens\": 20, \"messages\": $messages}"
echo
ask -N "$url/chat/completions" -d "{\"model\": \"$model\", \"max_tokens\": 20, \"stream\": true, \"messages\": $messages}"
ask "$url/models"
