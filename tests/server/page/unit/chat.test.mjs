// Trees of turns, the request made of them, and the file they travel in.

import "./setup.mjs";
import assert from "node:assert/strict";
import { test } from "node:test";
import { FIELDS, readField, SettingError } from "../../../../src/qwell/server/page/js/chat/fields.mjs";
import { chatBody, readTools } from "../../../../src/qwell/server/page/js/chat/request.mjs";
import { exportText, ImportError, importText } from "../../../../src/qwell/server/page/js/chat/transfer.mjs";
import { addTurn, newConversation, newSettings, openCalls, pathTo, select, shownPath, titleOf, versionsOf } from "../../../../src/qwell/server/page/js/chat/tree.mjs";

function sample() {
  const one = newConversation(1);
  const ask = addTurn(one, null, { role: "user", content: "hello" }, 2);
  const first = addTurn(one, ask.id, { role: "assistant", content: "A" }, 3);
  const more = addTurn(one, first.id, { role: "user", content: "more" }, 4);
  const second = addTurn(one, ask.id, { role: "assistant", content: "B" }, 5);
  return { one, ask, first, more, second };
}

test("versions are siblings; switching back brings what followed", () => {
  const { one, ask, first, more, second } = sample();
  assert.deepEqual(shownPath(one), [ask, second]);
  assert.deepEqual(versionsOf(one, first), [first, second]);
  select(one, first);
  assert.deepEqual(shownPath(one), [ask, first, more]);
  assert.deepEqual(pathTo(one, second.id), [ask, second]);
  assert.equal(one.title, "hello");
});

test("titles", () => {
  assert.equal(titleOf("  \n"), "New conversation");
  assert.equal(titleOf("a\nb"), "a");
  assert.ok(Array.from(titleOf("🎉".repeat(100))).length <= 49);
});

const user = (content) => ({ ...addTurn(newConversation(0), null, { role: "user", content }, 0) });

test("a plain request asks for the stream, the counts and the truth", () => {
  assert.deepEqual(chatBody(newSettings(), [user("hi")], false), {
    messages: [{ role: "user", content: "hi" }], stream: true, stream_options: { include_usage: true }, qwell: { truth: true },
  });
});

test("every setting goes where the server has it", () => {
  const settings = { ...newSettings(), system: "be kind", tools: '[{"name":"f","parameters":{"type":"object"}}]', toolChoice: "=f", parallel: false };
  settings.fields = { temperature: "0,5", top_k: "-1", seed: "9223372036854775807", stop: "a\\nb\n\nc", stop_token_ids: "1, 2", ignore_eos: "true", deadline_s: "5", n: "2", top_logprobs: "3", logit_bias: '{"5":1}' };
  const { messages, stream, stream_options, ...rest } = chatBody(settings, [user("hi")], false);
  assert.deepEqual(messages[0], { role: "system", content: "be kind" });
  assert.deepEqual(rest, {
    temperature: 0.5, top_k: -1, seed: 9223372036854775807n, stop: ["a\nb", "c"], stop_token_ids: [1, 2], ignore_eos: true, n: 2,
    logprobs: true, top_logprobs: 3, logit_bias: { 5: 1 }, tools: [{ type: "function", function: { name: "f", parameters: { type: "object" } } }],
    tool_choice: { type: "function", function: { name: "f" } }, parallel_tool_calls: false, qwell: { truth: true, deadline_s: 5 },
  });
});

for (const [format, formatText, wanted] of [
  ["json_object", "", { response_format: { type: "json_object" } }],
  ["json_schema", '{"type":"object"}', { response_format: { type: "json_schema", json_schema: { name: "reply", schema: { type: "object" } } } }],
  ["regex", "a+", { structured_outputs: { regex: "a+" } }],
  ["grammar", "start: x", { structured_outputs: { grammar: "start: x" } }],
  ["choice", "a\nb", { structured_outputs: { choice: ["a", "b"] } }],
]) {
  test(`format ${format}`, () => {
    const body = chatBody({ ...newSettings(), format, formatText }, [user("hi")], false);
    for (const [name, value] of Object.entries(wanted)) assert.deepEqual(body[name], value);
  });
}

test("calls and results are told as OpenAI has them; empty replies are left out; partial goes on", () => {
  const one = newConversation(0);
  const ask = addTurn(one, null, { role: "user", content: "?" }, 0);
  const calls = [{ id: "c", name: "f", arguments: "{}" }];
  const call = addTurn(one, ask.id, { role: "assistant", calls }, 0);
  assert.deepEqual(openCalls(shownPath(one)), calls);
  const result = addTurn(one, call.id, { role: "tool", content: "5", callId: "c" }, 0);
  const none = addTurn(one, result.id, { role: "assistant" }, 0);
  addTurn(one, none.id, { role: "assistant", content: "It" }, 0);
  assert.deepEqual(chatBody(newSettings(), shownPath(one), true).messages, [
    { role: "user", content: "?" },
    { role: "assistant", content: null, tool_calls: [{ id: "c", type: "function", function: { name: "f", arguments: "{}" } }] },
    { role: "tool", tool_call_id: "c", content: "5" },
    { role: "assistant", content: "It", partial: true },
  ]);
});

for (const [settings, field, goesOn = false] of [
  [{ fields: { temperature: "warm" } }, "temperature"],
  [{ fields: { temperature: "3" } }, "temperature"],
  [{ fields: { max_tokens: "1.5" } }, "max_tokens"],
  [{ fields: { seed: "9223372036854775808" } }, "seed"],
  [{ fields: { seed: "1e3" } }, "seed"],
  [{ fields: { stop_token_ids: "a" } }, "stop_token_ids"],
  [{ fields: { logit_bias: "[1]" } }, "logit_bias"],
  [{ fields: { logit_bias: "{" } }, "logit_bias"],
  [{ tools: "[{}]" }, "tools"],
  [{ tools: "null" }, "tools"],
  [{ format: "json_schema", formatText: "5" }, "formatText"],
  [{ format: "regex", formatText: " " }, "formatText"],
  [{ format: "json_object" }, "format", true],
]) {
  test(`a wrong setting is named: ${JSON.stringify(settings)}`, () => {
    assert.throws(() => chatBody({ ...newSettings(), ...settings }, [user("hi")], goesOn), (error) => error instanceof SettingError && error.field === field && !error.message.includes("\n"));
  });
}

test("empty fields send nothing", () => {
  for (const field of FIELDS) for (const text of [undefined, "", "  "]) assert.equal(readField(field, text), undefined);
  assert.deepEqual(readTools(" "), []);
});

test("export and import are a round trip", () => {
  const { one } = sample();
  one.settings.fields = { temperature: "0.5" };
  one.turns[1].truth = { sampling: { seed: { value: "1", from: "drawn" } } };
  assert.deepEqual(importText(exportText([one]), new Set()), [one]);
});

test("an id that is taken is changed; a reply being written comes as interrupted", () => {
  const { one, first } = sample();
  first.status = "streaming";
  const [found] = importText(exportText([one]), new Set([one.id]));
  assert.notEqual(found.id, one.id);
  assert.equal(found.turns[1].status, "interrupted");
  assert.equal(first.status, "streaming");
});

const broken = (change) => {
  const value = JSON.parse(exportText([sample().one]));
  change(value, value.conversations[0], value.conversations[0].turns);
  return JSON.stringify(value);
};

for (const [name, text, where] of [
  ["no JSON", "{", "JSON"],
  ["another file", '{"a":1}', "format"],
  ["null", "null", "format"],
  ["a list", "[]", "format"],
  ["a later version", broken((v) => (v.version = 2)), "version 2"],
  ["a strange field", broken((v) => (v.evil = 1)), "evil"],
  ["a strange field of a turn", broken((v, c, t) => (t[0].html = "<b>")), "conversations[0].turns[0].html"],
  ["no title", broken((v, c) => delete c.title), "conversations[0].title is missing"],
  ["a title that is no text", broken((v, c) => (c.title = { a: 1 })), "conversations[0].title is an object"],
  ["a long title", broken((v, c) => (c.title = "x".repeat(999))), "title"],
  ["an id with markup", broken((v, c) => (c.id = '"><img src=x onerror=alert(1)>')), "conversations[0].id"],
  ["an id of Object.prototype", broken((v, c, t) => (t[0].id = "constructor")), "turns[0].id"],
  ["the same id twice", broken((v, c, t) => (t[1].id = t[0].id)), "turns[1].id is there twice"],
  ["a circle", broken((v, c, t) => (t[0].parent = t[1].id)), "turns[0].parent"],
  ["its own parent", broken((v, c, t) => (t[0].parent = t[0].id)), "turns[0].parent"],
  ["a strange role", broken((v, c, t) => (t[0].role = "system")), "turns[0].role"],
  ["a number that is none", broken((v, c, t) => (t[0].created = "1")), "turns[0].created"],
  ["a selected turn elsewhere", broken((v, c, t) => (c.selected.root = t[2].id)), "selected.root"],
  ["a selected turn that is none", broken((v, c) => (c.selected.root = "abcdefabcdef")), "selected.root"],
  ["a setting nobody knows", broken((v, c) => (c.settings.fields.colour = "red")), "settings.fields"],
  ["__proto__ in selected", broken(() => 0).replace('"root":', '"__proto__":'), "__proto__"],
  ["__proto__ in a turn", broken(() => 0).replace('"role":"user"', '"role":"user","__proto__":{"x":1}'), "__proto__"],
  ["facts without an end", broken((v, c, t) => { let deep = {}; for (let i = 0; i < 99; i += 1) deep = { deep }; t[0].truth = deep; }), "truth"],
  ["too many conversations", broken((v) => (v.conversations = Array(10_001).fill({}))), "10001 entries"],
]) {
  test(`import refuses ${name}`, () => {
    assert.throws(() => importText(text, new Set()), (error) => {
      assert.ok(error instanceof ImportError, String(error));
      assert.ok(error.message.includes(where), error.message);
      assert.ok(!error.message.includes("\n") && error.message.length < 300, error.message);
      return true;
    });
  });
}

test("__proto__ in the facts is dropped and pollutes nothing", () => {
  const text = broken((v, c, t) => (t[0].truth = { a: 1 })).replace('"truth":{"a":1}', '"truth":{"__proto__":{"polluted":true},"a":1}');
  assert.deepEqual(importText(text, new Set())[0].turns[0].truth, { a: 1 });
  assert.equal({}.polluted, undefined);
});
