// The Markdown reader: what it understands, that nothing vanishes, and that hostile text costs little.

import assert from "node:assert/strict";
import { test } from "node:test";
import { parseMarkdown, parseParts } from "../../../../src/qwell/server/page/js/text/blocks.mjs";
import { plainText } from "../../../../src/qwell/server/page/js/text/emphasis.mjs";
import { parseInline } from "../../../../src/qwell/server/page/js/text/inline.mjs";
import { safeUrl } from "../../../../src/qwell/server/page/js/text/url.mjs";

const text = (value) => ({ kind: "text", text: value });
const strong = (...children) => ({ kind: "strong", children });
const em = (...children) => ({ kind: "em", children });
const link = (href, ...children) => ({ kind: "link", href, children });

for (const [source, wanted] of [
  ["plain", [text("plain")]],
  ["**a** b", [strong(text("a")), text(" b")]],
  ["*a **b** c*", [em(text("a "), strong(text("b")), text(" c"))]],
  ["***a***", [em(strong(text("a")))]],
  ["**bold *it* x**", [strong(text("bold "), em(text("it")), text(" x"))]],
  ["snake_case_name", [text("snake_case_name")]],
  ["_a_ b", [em(text("a")), text(" b")]],
  ["2 * 3 * 4", [text("2 * 3 * 4")]],
  ["**open", [text("**open")]],
  ["*foo**bar*", [em(text("foo**bar"))]],
  ["~~gone~~ ~one~", [{ kind: "del", children: [text("gone")] }, text(" ~one~")]],
  ["`a*b*` c", [{ kind: "code", text: "a*b*" }, text(" c")]],
  ["`` a`b ``", [{ kind: "code", text: "a`b" }]],
  ["`open", [text("`open")]],
  ["\\*a\\*", [text("*a*")]],
  ["a &lt;b&gt; &amp;lt; &copy;", [text("a <b> &lt; &copy;")]],
  ["[a](https://x.example/y 'title')", [link("https://x.example/y", text("a"))]],
  ["[**a** b](https://x.example)", [link("https://x.example/", strong(text("a")), text(" b"))]],
  ["[a](<https://x.example/a b>)", [text("a (https://x.example/a b)")]],
  ["[a](https://x.example/p_(q))", [link("https://x.example/p_(q)", text("a"))]],
  ["see https://x.example/a_b, ok", [text("see "), link("https://x.example/a_b", text("https://x.example/a_b")), text(", ok")]],
  ["(https://x.example)", [text("("), link("https://x.example/", text("https://x.example")), text(")")]],
  ["<https://x.example>", [link("https://x.example/", text("https://x.example"))]],
  ["![pic](https://x.example/p.png)", [{ kind: "image", href: "https://x.example/p.png", text: "pic" }]],
  ["a  \nb<br>c\\\nd\ne", [text("a"), { kind: "break" }, text("b"), { kind: "break" }, text("c"), { kind: "break" }, text("d\ne")]],
  ["\\(a_1\\) x", [{ kind: "math", text: "a_1" }, text(" x")]],
  ["<script>alert(1)</script>", [text("<script>alert(1)</script>")]],
  ["[x][1] and [y]", [text("[x][1] and [y]")]],
]) {
  test(`inline ${JSON.stringify(source)}`, () => assert.deepEqual(parseInline(source), wanted));
}

for (const source of [
  "javascript:alert(1)", "JaVaScRiPt:alert(1)", " javascript:alert(1)", "java\nscript:alert(1)", "\u0001javascript:alert(1)",
  "data:text/html,<script>", "vbscript:x", "file:///etc/passwd", "//evil.example", "/metrics", "#x", "https:evil", "http:///x",
  "https://bank.example@evil.example/", "https://a b", "blob:https://x", `https://x.example/${"a".repeat(3000)}`, "mailto:", "",
]) {
  test(`no link: ${JSON.stringify(source.slice(0, 40))}`, () => {
    assert.equal(safeUrl(source), null);
    const kinds = JSON.stringify(parseInline(`[a](${source}) <${source}> ![b](${source})`));
    assert.ok(!/"kind":"link","href":"(?!https?:|mailto:)/.test(kinds), kinds);
  });
}

test("a link that may not be followed shows its address", () => {
  assert.equal(plainText(parseInline("[click](javascript:alert(1))")), "click (javascript:alert(1))");
});

test("a link holds no link", () => {
  const found = parseInline("[a [b](https://x.example) c **https://z.example**](https://y.example) ![i](https://i.example)");
  for (const node of found) assert.ok(node.kind !== "link" || !JSON.stringify(node.children).includes('"link"'));
  assert.deepEqual(parseInline("[https://z.example **https://z.example**](https://y.example)"), [
    link("https://y.example/", text("https://z.example"), text(" "), strong(text("https://z.example"))),
  ]);
});

const kinds = (source) => parseMarkdown(source).map((block) => block.kind);

test("blocks of every kind", () => {
  const source = "# T\n\npara\nmore\n\n- a\n- b\n\n1. x\n2. y\n\n> q\n\n---\n\n```js\ncode\n```\n\n|a|b|\n|-|-|\n|1|2|\n\n$$x$$\n";
  assert.deepEqual(kinds(source), ["heading", "paragraph", "list", "list", "quote", "rule", "code", "table", "math"]);
});

test("an open fence holds everything to the end", () => {
  assert.deepEqual(parseMarkdown("~~~~py title\n# a\n~~~\n- b"), [
    { kind: "code", info: "py title", text: "# a\n~~~\n- b", isOpen: true },
  ]);
});

test("a fence in a list belongs to its item", () => {
  const [list] = parseMarkdown("1. one\n\n   ```py\n   x = 1\n   ```\n2. two");
  assert.equal(list.items.length, 2);
  assert.deepEqual(list.items[0].children[1], { kind: "code", info: "py", text: "x = 1", isOpen: false });
});

test("lists nest by two, three or four spaces", () => {
  for (const gap of ["  ", "   ", "    "]) {
    const [list] = parseMarkdown(`- a\n${gap}- b\n${gap}${gap}- c\n- d`);
    assert.equal(list.items.length, 2, gap);
    const [, inner] = list.items[0].children;
    assert.equal(inner.items[0].children[1].items.length, 1, gap);
  }
});

test("loose and tight lists, starts, boxes", () => {
  const [tight, loose] = [parseMarkdown("- a\n- b")[0], parseMarkdown("3) a\n\n4) b")[0]];
  assert.deepEqual([tight.isTight, loose.isTight, loose.start, loose.isOrdered], [true, false, 3, true]);
  assert.deepEqual(parseMarkdown("- [x] a\n- [ ] b\n- c")[0].items.map((one) => one.checked), [true, false, null]);
});

test("a list ends where a paragraph begins behind a blank line", () => {
  assert.deepEqual(kinds("- a\n\nb"), ["list", "paragraph"]);
  assert.deepEqual(kinds("- a\nlazy"), ["list"]);
  assert.deepEqual(kinds("text\n- a"), ["paragraph", "list"]);
  assert.deepEqual(kinds("in\n1984. It was"), ["paragraph"]);
});

test("tables: alignment, escaped bars, bars in code, ragged rows", () => {
  const [table] = parseMarkdown("| a | b |\n|:-:|--:|\n| x \\| y | `p|q` |\n| 1 |\n| 1 | 2 | 3 |");
  assert.deepEqual(table.aligns, ["center", "right"]);
  assert.deepEqual(table.rows.map((row) => row.map(plainText)), [["x | y", "p|q"], ["1", ""], ["1", "2 | 3"]]);
});

test("no table without its second line", () => assert.deepEqual(kinds("a | b\nc | d"), ["paragraph"]));

// Every word of the source is in what is shown, whatever stands around it.
function shown(blocks) {
  return blocks.map((block) => {
    if (block.kind === "code" || block.kind === "math") return `${block.info ?? ""} ${block.text}`;
    if (block.kind === "list") return block.items.map((item) => shown(item.children)).join(" ");
    if (block.kind === "quote") return shown(block.children);
    if (block.kind === "table") return [block.head, ...block.rows].flat().map(plainText).join(" ");
    return "children" in block ? plainText(block.children) : "";
  }).join(" ");
}

function random(seed) {
  let state = seed;
  return (most) => {
    state = (state * 1103515245 + 12345) % 2147483648;
    return Math.floor((state / 2147483648) * most);
  };
}

const PIECES = ["- ", "* ", "1. ", "> ", "# ", "```\n", "~~~\n", "    ", "  ", "\n", "\n\n", "|", "|-|\n", "**", "*", "_", "`", "``", "[", "](", "](https://x.example)", ")", "![", "~~", "\\", "$$", "\\[", "\\(", "---\n", "<br>", "<b>", "&amp;", "https://x.example/", "[x] "];

test("nothing vanishes: words in random Markdown are all shown", () => {
  const pick = random(7);
  for (let round = 0; round < 3000; round += 1) {
    let source = "";
    const words = [];
    for (let i = 0; i < 14; i += 1) {
      const word = `w${round}x${i}z`;
      if (pick(2)) words.push(word);
      source += PIECES[pick(PIECES.length)] + (words.at(-1) === word ? word : "");
    }
    const found = shown(parseMarkdown(source)) + JSON.stringify(parseMarkdown(source));
    for (const word of words) assert.ok(found.includes(word), `${word} of ${JSON.stringify(source)}`);
  }
});

test("parts: a text that grows changes its last parts alone", () => {
  const source = "# a\n\npara **b**\n\n- x\n- y\n\n```js\nlet a\n```\n\nend";
  const whole = parseParts(source);
  for (let cut = 1; cut < source.length; cut += 1) {
    const parts = parseParts(source.slice(0, cut));
    for (let i = 0; i < parts.length - 1; i += 1) assert.equal(parts[i].source, whole[i].source, `cut ${cut}`);
  }
});

function depth(value) {
  if (typeof value !== "object" || value === null) return 0;
  return 1 + Math.max(0, ...Object.values(value).slice(0, 50).map(depth));
}

for (const [name, source] of [
  ["deep list", Array.from({ length: 5000 }, (_, i) => `${"  ".repeat(i % 500)}- x`).join("\n")],
  ["wide list", "- x\n".repeat(50_000)],
  ["deep quote", `${"> ".repeat(20_000)}x`],
  ["deep quotes", `${"> ".repeat(300)}x\n`.repeat(300)],
  ["brackets", "[".repeat(100_000)],
  ["closed brackets", `${"[".repeat(30_000)}x${"](y)".repeat(30_000)}`],
  ["targets", "](".repeat(50_000)],
  ["images", "![".repeat(50_000)],
  ["stars", "*".repeat(100_000)],
  ["star words", "*a ".repeat(50_000)],
  ["nested stars", `${"*a ".repeat(20_000)}${"b* ".repeat(20_000)}`],
  ["nested strong", `${"**a ".repeat(20_000)}${"b** ".repeat(20_000)}`],
  ["mixed", "*_~~a ".repeat(20_000) + "b~~_* ".repeat(20_000)],
  ["ticks", Array.from({ length: 700 }, (_, i) => "`".repeat(i + 1)).join(" ")],
  ["angles", "<https://".repeat(20_000)],
  ["urls", "https://a".repeat(20_000)],
  ["bars", `${"|".repeat(20_000)}\n${"|-".repeat(20_000)}|`],
  ["rows", `|a|b|\n|-|-|\n${"|x|y|\n".repeat(20_000)}`],
  ["spaces", `${" ".repeat(100_000)}x`],
  ["hashes", `${"#".repeat(100_000)} x`],
  ["dashes", `${"- ".repeat(50_000)}x`],
  ["math", "\\(".repeat(50_000)],
  ["display math", "$$\n".repeat(3000)],
  ["fences", "```\n".repeat(20_001)],
  ["backslashes", "\\".repeat(100_000)],
  ["numbers", "1. ".repeat(30_000)],
]) {
  test(`hostile: ${name}`, () => {
    const start = process.cpuUsage().user;
    const found = parseMarkdown(source);
    const took = (process.cpuUsage().user - start) / 1000; // not the clock: others may have the cores
    assert.ok(took < 3000, `${took} ms`);
    assert.ok(depth(found) < 130, `depth ${depth(found)}`);
  });
}
