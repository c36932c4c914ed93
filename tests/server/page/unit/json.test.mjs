// JSON made readable is the same JSON, token for token.

import assert from "node:assert/strict";
import { test } from "node:test";
import { prettyJson } from "../../../../src/qwell/server/page/js/text/json.mjs";

test("as JSON.stringify lays it out", () => {
  for (const value of [{}, [], 1, "x", null, { a: [], b: {}, c: [1, [2, { d: "e" }]], f: { g: true } }, [[[]]], { "": "," }, "{[:,]}\\\""]) {
    for (const source of [JSON.stringify(value), JSON.stringify(value, null, 3)]) assert.equal(prettyJson(source), JSON.stringify(value, null, 2));
  }
});

test("numbers, escapes and names that stand twice stay as they were", () => {
  assert.equal(prettyJson('{"a":12345678901234567890,"a":1.50,"b":"\\u00e9\\/"}'), '{\n  "a": 12345678901234567890,\n  "a": 1.50,\n  "b": "\\u00e9\\/"\n}');
});

test("what is no JSON", () => {
  for (const source of ["", "{", "{'a':1}", "[1,]", "x", '{"a":1} b']) assert.equal(prettyJson(source), null);
});
