// The official Node SDK against a running gateway: what it sends arrives as it was, what it gets is what it expects.
// GATEWAY is the base URL, BOX the control URL of the clouds in a box; see tests/node/test_node.py.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const { GATEWAY, BOX } = process.env;
const LLAMA = "meta-llama/Llama-3.1-8B-Instruct";
const messages = [{ role: "user", content: "Hello, ¿qué tal? 日本 🦙" }];
const tools = ["weather", "time"].map((name) => ({
  type: "function",
  function: { name, parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } },
}));

let sent = "";
const client = new OpenAI({
  baseURL: GATEWAY,
  apiKey: "sk-team",
  maxRetries: 0,
  fetch: (url, options) => {
    sent = options.body;
    return fetch(url, options);
  },
});

async function lastCall() {
  const { calls } = await (await fetch(`${BOX}/_sandbox/calls`)).json();
  return calls.at(-1);
}

async function setFault(cloud, fault) {
  const answer = await fetch(`${BOX}/_sandbox/${cloud}`, { method: "PUT", body: JSON.stringify({ fault }) });
  assert.equal(answer.status, 200);
}

test("a call arrives untouched and comes back under the name that was asked", async () => {
  const answer = await client.chat.completions.create({
    model: "on-vllm", messages, max_tokens: 7, seed: 3, stop: ["###"], n: 2, logprobs: true,
    top_k: 40, vendor: { z: null, list: [1, 2.5] },
  });
  assert.equal((await lastCall()).body, sent.replace('"model":"on-vllm"', `"model":"${LLAMA}"`));
  assert.equal(answer.model, "on-vllm");
  assert.equal(answer.choices.length, 2);
  assert.equal(answer.usage.completion_tokens, 14);
  assert.equal(answer.choices[0].logprobs.content.length, 7);
});

test("a stream says what the plain answer says, and usage to who asked", async () => {
  const plain = await client.chat.completions.create({ model: "on-groq", messages, max_tokens: 9 });
  for (const include_usage of [true, false]) {
    let text = "";
    let usage = null;
    const stream = await client.chat.completions.create({
      model: "on-groq", messages, max_tokens: 9, stream: true, stream_options: { include_usage },
    });
    for await (const chunk of stream) {
      assert.equal(chunk.model, "on-groq");
      text += chunk.choices[0]?.delta?.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, plain.choices[0].message.content);
    assert.equal(usage?.completion_tokens ?? null, include_usage ? 9 : null);
  }
});

test("the streaming helper gathers text and tool calls", async () => {
  const text = client.chat.completions.stream({ model: "on-vllm", messages });
  let seen = "";
  text.on("content", (delta) => (seen += delta));
  assert.equal(await text.finalContent(), seen);
  assert.ok(seen.length > 0);
  const called = await client.chat.completions
    .stream({ model: "on-vllm", messages, tools, tool_choice: "required", parallel_tool_calls: true })
    .finalChatCompletion();
  const names = called.choices[0].message.tool_calls.map((call) => call.function.name);
  assert.deepEqual(new Set(names), new Set(["weather", "time"]));
  for (const call of called.choices[0].message.tool_calls) assert.ok("city" in JSON.parse(call.function.arguments));
});

test("JSON by schema is valid JSON", async () => {
  const schema = { type: "object", properties: { n: { type: "integer" } }, required: ["n"], additionalProperties: false };
  const answer = await client.chat.completions.create({
    model: "on-vllm", messages,
    response_format: { type: "json_schema", json_schema: { name: "number", schema, strict: true } },
  });
  assert.equal(typeof JSON.parse(answer.choices[0].message.content).n, "number");
});

test("our headers are on the raw response", async () => {
  const { data, response, request_id } = await client.chat.completions
    .create({ model: "on-vllm", messages, max_tokens: 1 }, { headers: { "x-request-id": "node-1" } })
    .withResponse();
  assert.equal(request_id, "node-1");
  assert.equal(data._request_id, "node-1");
  assert.equal(response.headers.get("x-arriero-deployment"), "vllm");
  assert.match(response.headers.get("x-arriero-decision"), /^dec_/);
  assert.ok(Number(response.headers.get("x-arriero-cost-usd")) > 0);
});

test("completions, embeddings and models", async () => {
  const text = await client.completions.create({ model: "on-vllm", prompt: "Once", max_tokens: 4 });
  assert.equal(text.usage.completion_tokens, 4);
  const vectors = await client.embeddings.create({ model: "vectors", input: ["a", "b"], dimensions: 8 });
  assert.deepEqual(vectors.data.map((row) => row.embedding.length), [8, 8]);
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert.ok(names.includes("my-org/llama:latest"));
  assert.equal((await client.models.retrieve("my-org/llama:latest")).id, "my-org/llama:latest");
});

test("every error is of its class", async () => {
  const ask = (options, more = {}) =>
    client.withOptions(more).chat.completions.create({ model: "on-groq", messages, max_tokens: 1, ...options });
  await assert.rejects(ask({ base_url: "http://evil.test" }), OpenAI.BadRequestError);
  await assert.rejects(ask({}, { apiKey: "sk-nobody" }), OpenAI.AuthenticationError);
  await assert.rejects(ask({}, { apiKey: "sk-narrow" }), OpenAI.PermissionDeniedError);
  await assert.rejects(ask({ model: "none" }), (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found");
  await setFault("groq", { kind: "status", status: 429, headers: { "retry-after": "7" } });
  await assert.rejects(ask({}), (error) => error instanceof OpenAI.RateLimitError && error.headers.get("retry-after") === "7");
  await setFault("groq", { kind: "status", status: 500 });
  await assert.rejects(ask({}), (error) => error instanceof OpenAI.InternalServerError && error.status === 502);
  await setFault("groq", { kind: "silent" });
  await assert.rejects(ask({}, { timeout: 200 }), OpenAI.APIConnectionTimeoutError);
  await setFault("groq", { kind: "close_after_tokens", after_tokens: 3 });
  const broken = await client.chat.completions.create({ model: "on-groq", messages, max_tokens: 9, stream: true });
  await assert.rejects(
    async () => { for await (const _ of broken); },
    (error) => error instanceof OpenAI.APIError && error.code === "stream_incomplete",
  );
  await setFault("groq", null);
});
