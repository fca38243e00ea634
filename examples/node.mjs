// The same with the Node SDK: npm install openai, then node node.mjs
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: process.env.ARRIERO_URL ?? "http://127.0.0.1:8080/v1",
  apiKey: process.env.ARRIERO_KEY ?? "any",
});
const stream = await client.chat.completions.create({
  model: process.env.ARRIERO_MODEL ?? "llama-3.1-8b",
  messages: [{ role: "user", content: "What is an arriero?" }],
  max_tokens: 40,
  stream: true,
});
for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
process.stdout.write("\n");
