// Streams: events at every split; chunks become turns; seeds keep their digits.

import "./setup.mjs";
import assert from "node:assert/strict";
import { test } from "node:test";
import { StreamFault, takeChunk } from "../../../../src/qwell/server/page/js/chat/deltas.mjs";
import { bodyText, readJson } from "../../../../src/qwell/server/page/js/net/api.mjs";
import { SseParser } from "../../../../src/qwell/server/page/js/net/sse.mjs";
import { addTurn, newConversation } from "../../../../src/qwell/server/page/js/chat/tree.mjs";

const STREAM = 'data: {"a":1}\n\n: keep-alive\n\ndata: x\r\ndata: y\r\n\r\nevent: z\ndata:bare\rdata\r\rid: 1\n\ndata: [DONE]\n\n';
const EVENTS = ['{"a":1}', "x\ny", "bare\n", "[DONE]"];

test("one piece", () => assert.deepEqual(new SseParser().push(STREAM), EVENTS));

test("every split in two, and one character at a time", () => {
  for (let cut = 0; cut <= STREAM.length; cut += 1) {
    const parser = new SseParser();
    assert.deepEqual([...parser.push(STREAM.slice(0, cut)), ...parser.push(STREAM.slice(cut))], EVENTS, `cut ${cut}`);
  }
  const parser = new SseParser();
  assert.deepEqual([...STREAM].flatMap((char) => parser.push(char)), EVENTS);
});

test("an unfinished event is not told", () => assert.deepEqual(new SseParser().push("data: a\n"), []));

const turn = () => addTurn(newConversation(0), null, { role: "assistant" }, 0);
const choice = (index, delta, more = {}) => ({ choices: [{ index, delta, ...more }] });

test("text, calls, ends and facts of several choices", () => {
  const [a, b] = [turn(), turn()];
  assert.ok(takeChunk([a, b], choice(0, { content: "He" })));
  assert.ok(takeChunk([a, b], choice(0, { content: "llo" }, { logprobs: { content: [{ token: "llo", logprob: -0.5, top_logprobs: [{ token: "y", logprob: -1 }] }] } })));
  assert.ok(!takeChunk([a, b], choice(0, {}, { finish_reason: "stop" })));
  takeChunk([a, b], choice(1, { tool_calls: [{ index: 0, id: "c1", function: { name: "f", arguments: "" } }] }));
  takeChunk([a, b], choice(1, { tool_calls: [{ index: 0, function: { arguments: '{"x"' } }] }));
  takeChunk([a, b], { ...choice(1, { tool_calls: [{ index: 0, function: { arguments: ":1}" } }] }, { qwell: { malformed_tool_call: true } }), model: "m", qwell: { truth: { a: 1 } } });
  takeChunk([a, b], choice(7, { content: "nobody" }));
  assert.deepEqual([a.content, a.finish, a.logprobs], ["Hello", "stop", [{ token: "llo", logprob: -0.5, top: [{ token: "y", logprob: -1 }] }]]);
  assert.deepEqual([b.calls, b.malformed, b.model, b.truth], [[{ id: "c1", name: "f", arguments: '{"x":1}' }], true, "m", { a: 1 }]);
});

test("usage is that of one choice alone", () => {
  const usage = { prompt_tokens: 5, completion_tokens: 7, prompt_tokens_details: { cached_tokens: 4 } };
  const [a, b, c] = [turn(), turn(), turn()];
  takeChunk([a], { choices: [], usage });
  takeChunk([b, c], { choices: [], usage });
  assert.deepEqual([a.usage, b.usage], [{ prompt: 5, reply: 7, cached: 4, isRest: false }, null]);
});

test("a fault inside a stream", () => {
  assert.throws(() => takeChunk([turn()], { error: { message: "m", type: "overloaded_error", code: "draining" } }), (error) => error instanceof StreamFault && error.status === 503 && error.code === "draining");
});

test("seeds of 64 bits keep their digits, both ways; texts keep theirs", () => {
  assert.equal(bodyText({ a: 1, seed: 9223372036854775807n }), '{"a":1,"seed":9223372036854775807}');
  assert.equal(bodyText({ a: "x" }), '{"a":"x"}');
  const said = { content: '{"seed":7289760941893914999}', seed: 5, path: "a\\" };
  const told = `${JSON.stringify(said).slice(0, -1)},"sampling":{"value":-7289760941893914999,"x":12}}`;
  assert.deepEqual(readJson(told), { ...said, sampling: { value: "-7289760941893914999", x: 12 } });
});
