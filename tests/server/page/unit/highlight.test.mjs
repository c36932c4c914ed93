// The highlighter: spans joined are the text; a few languages look right.

import assert from "node:assert/strict";
import { test } from "node:test";
import { highlight } from "../../../../src/qwell/server/page/js/text/highlight.mjs";

const LANGUAGES = ["python", "js", "json", "cpp", "java", "rust", "bash", "yaml", "sql", "ruby", "css", "html", "nonsense", "__proto__", "constructor"];
const SOURCES = ["def f(x): # c\n  return \"a\\\"b\" + 'c' # d", '"""open', "/* open", "// c\nlet `a\nb`", "<a href=\"x\">y</a><!-- z", "\\", "\"", "'a\nb'", "x = 0xFF1.5e3", "héllo 世界 🎉(", "", "SELECT a FROM b -- c"];

test("the spans joined are the text", () => {
  for (const language of LANGUAGES) {
    for (const source of SOURCES) assert.equal(highlight(source, language).map((span) => span.text).join(""), source);
  }
});

const kinds = (source, language) => Object.fromEntries(highlight(source, language).filter((span) => span.kind !== "plain").map((span) => [span.text, span.kind]));

test("python", () => {
  assert.deepEqual(kinds('def f(a=1):\n    """doc"""\n    return a  # end', "Python"), { def: "keyword", f: "name", 1: "number", '"""doc"""': "string", return: "keyword", "# end": "comment" });
});

test("shell: a # within a word is no comment", () => assert.deepEqual(kinds("echo $# a#b # c", "sh"), { echo: "keyword", "# c": "comment" }));
test("the keys of JSON are no strings", () => assert.deepEqual(kinds('{"a": "b", "c":1}', "json"), { '"a"': "name", '"b"': "string", '"c"': "name", 1: "number" }));
test("SQL in any case", () => assert.equal(kinds("select 1", "sql").select, "keyword"));
test("markup", () => assert.deepEqual(kinds('<a b="c">d</a>', "html"), { "<a": "tag", '"c"': "string", ">": "tag", "</a>": "tag" }));

test("long and hostile code costs little", () => {
  for (const source of ["\"".repeat(50_000), "/*".repeat(25_000), "<".repeat(50_000), "<!--".repeat(12_000), "a".repeat(1_000_000), "#".repeat(50_000)]) {
    const start = process.cpuUsage().user;
    for (const language of ["python", "js", "html", "bash"]) highlight(source, language);
    assert.ok(process.cpuUsage().user - start < 2_000_000);
  }
});
