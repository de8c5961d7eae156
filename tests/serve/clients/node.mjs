// The openai package of npm against a server: URL -> JSON of what it understood. Run by test_clients.py.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "any", maxRetries: 0 });
const ask = (content, fields = {}) => ({ model: "pirate", messages: [{ role: "user", content }], ...fields });
const weather = {
  type: "function",
  function: { name: "weather", parameters: { type: "object", properties: { place: { type: "string" } } } },
};
const schema = { type: "object", properties: { old: { type: "boolean" } }, required: ["old"], additionalProperties: false };

const found = {};
const plain = await client.chat.completions.create(ask("ahoy", { n: 2 }));
found.plain = plain.choices.map((choice) => choice.message.content);
found.stream = "";
for await (const chunk of await client.chat.completions.create(ask("ahoy ☠", { stream: true }))) {
  found.stream += chunk.choices[0]?.delta?.content ?? "";
}
const called = await client.chat.completions.create(ask("weather?", { tools: [weather] }));
found.tools = called.choices[0].message.tool_calls.map((call) => [call.function.name, JSON.parse(call.function.arguments)]);
found.finish = called.choices[0].finish_reason;
const runner = client.chat.completions.stream(ask("weather?", { tools: [weather] }));
found.streamedTools = (await runner.finalChatCompletion()).choices[0].message.tool_calls.map((call) => call.function.name);
const formed = await client.chat.completions.parse(
  ask("x", { response_format: { type: "json_schema", json_schema: { name: "x", schema, strict: true } } }),
);
found.json = Object.keys(JSON.parse(formed.choices[0].message.content));
found.models = (await client.models.list()).data.map((model) => model.id);
found.completion = (await client.completions.create({ model: "base", prompt: "abc", max_tokens: 50 })).choices[0].text;
try {
  await client.chat.completions.create(ask("ahoy", { model: "gpt-5" }));
} catch (error) {
  found.error = [error.constructor.name, error.code];
}
console.log(JSON.stringify(found));
