// Light colouring of code: one lexer, a few families of languages. Text in, spans out; no DOM.
//
// The spans joined are always the text. An unknown language is left as it is.

/** @typedef {{kind: "plain" | "comment" | "string" | "number" | "keyword" | "name" | "tag", text: string}} Span */
/** @typedef {{line?: string[], block?: [string, string][], quotes: string[], words: Set<string>, anyCase?: boolean, hasKeys?: boolean}} Family */

const LONGEST = 60_000;

/** @param {string} text */
const words = (text) => new Set(text.split(" "));

const C_WORDS =
  "auto break case catch class const constexpr continue default delete do double else enum explicit export extern false final float for friend goto if inline int long namespace new noexcept nullptr operator override private protected public return short signed sizeof static struct switch template this throw true try typedef typename union unsigned using virtual void volatile while bool char";
const JS_WORDS =
  "abstract any as async await boolean break case catch class const continue debugger default delete do else enum export extends false finally for from function get if implements import in instanceof interface let new null number of private public readonly return set static string super switch this throw true try type typeof undefined var void while yield never unknown";
const JAVA_WORDS =
  "abstract assert boolean break byte case catch char class continue default do double else enum extends final finally float for fun if implements import in instanceof int interface internal is let long new null object open override package private protected public return sealed short static super switch synchronized this throw throws true false try val var void when while string using namespace foreach record func guard self nil protocol extension";
const GO_RUST_WORDS =
  "as async await break case chan const continue crate default defer dyn else enum extern fallthrough false fn for func go goto if impl import in interface let loop map match mod move mut nil package pub range ref return select self Self static struct super switch trait true type unsafe use var where while string int bool error u8 u32 u64 i32 i64 usize f32 f64 str String Vec Option Result";
const PYTHON_WORDS =
  "False None True and as assert async await break class continue def del elif else except finally for from global if import in is lambda match nonlocal not or pass raise return self try while with yield";
const SHELL_WORDS =
  "case do done elif else esac export fi for function if in local return set then until while sudo echo cd alias source exit";
const SQL_WORDS =
  "add all alter and as asc between by case create default delete desc distinct drop else end exists foreign from full group having in index inner insert into is join key left like limit not null offset on or order outer primary references right select set table then union unique update values view when where with";
const RUBY_WORDS =
  "BEGIN END alias and begin break case class def defined do else elsif end ensure false for function if in local module next nil not or redo require rescue retry return self super then true undef unless until when while yield";

const SLASH = { line: ["//"], block: /** @type {[string, string][]} */ ([["/*", "*/"]]), quotes: ['"', "'"] };
/** @type {[string, Family][]} */
const FAMILIES = [
  ["python py python3", { line: ["#"], quotes: ['"""', "'''", '"', "'"], words: words(PYTHON_WORDS) }],
  ["js javascript mjs jsx ts typescript tsx node", { ...SLASH, quotes: ['"', "'", "`"], words: words(JS_WORDS) }],
  ["json jsonc json5 jsonl", { ...SLASH, hasKeys: true, words: words("true false null") }],
  ["c cpp c++ h hpp cc cuda objc", { ...SLASH, words: words(C_WORDS) }],
  ["java kotlin kt cs csharp c# scala swift dart php groovy", { ...SLASH, words: words(JAVA_WORDS) }],
  ["go golang rust rs zig", { ...SLASH, quotes: ['"', "`"], words: words(GO_RUST_WORDS) }],
  ["sh bash zsh shell console dockerfile docker makefile make", { line: ["#"], quotes: ['"', "'"], words: words(SHELL_WORDS) }],
  ["yaml yml toml ini conf", { line: ["#"], quotes: ['"', "'"], words: words("true false null yes no on off") }],
  ["sql sqlite postgresql mysql", { line: ["--"], block: [["/*", "*/"]], quotes: ["'", '"'], words: words(SQL_WORDS), anyCase: true }],
  ["ruby rb lua r julia perl", { line: ["#", "--"], quotes: ['"', "'"], words: words(RUBY_WORDS) }],
  ["css scss less", { block: [["/*", "*/"]], line: [], quotes: ['"', "'"], words: words("important") }],
];
const MARKUP = words("html xml svg vue xhtml htm");
/** @type {Map<string, Family>} */
const BY_NAME = new Map(FAMILIES.flatMap(([names, family]) => names.split(" ").map((name) => [name, family])));

/**
 * @param {string} text
 * @param {string} language
 * @returns {Span[]}
 */
export function highlight(text, language) {
  const name = language.toLowerCase();
  const family = BY_NAME.get(name);
  if (text.length > LONGEST) return [{ kind: "plain", text }];
  if (MARKUP.has(name)) return markup(text);
  return family ? lex(text, family) : [{ kind: "plain", text }];
}

/** @param {string} text @param {Family} family @returns {Span[]} */
function lex(text, family) {
  const spans = new Spans();
  let at = 0;
  while (at < text.length) {
    const end = commentEnd(text, at, family) ?? null;
    if (end !== null) spans.add("comment", text.slice(at, end));
    const quote = end === null ? family.quotes.find((one) => text.startsWith(one, at)) : undefined;
    const stop = end ?? (quote ? stringEnd(text, at, quote) : null);
    if (quote) spans.add(family.hasKeys && isKey(text, stop) ? "name" : "string", text.slice(at, stop ?? at));
    at = stop ?? word(text, at, family, spans);
  }
  return spans.all;
}

/** Whether a colon follows. @param {string} text @param {number | null} end of a string */
function isKey(text, end) {
  let at = end ?? 0;
  while (text[at] === " ") at += 1;
  return text[at] === ":";
}

/** @param {string} text @param {number} at @param {Family} family @param {Spans} spans */
function word(text, at, family, spans) {
  WORD.lastIndex = at;
  const found = /** @type {RegExpExecArray} */ (WORD.exec(text))[0];
  const isKnown = family.words.has(family.anyCase ? found.toLowerCase() : found);
  const isCall = text[at + found.length] === "(";
  const kind = /^\d/.test(found) ? "number" : isKnown ? "keyword" : isCall && /^\w/.test(found) ? "name" : "plain";
  spans.add(kind, found);
  return at + found.length;
}

const WORD = /\d[\w.]*|[A-Za-z_$\u00c0-\uffff][\w$\u00c0-\uffff]*|\s+|[^]/y;

/** @param {string} text @param {number} at @param {Family} family @returns {number | null} */
function commentEnd(text, at, family) {
  for (const mark of family.line ?? []) {
    // A # or -- inside a word or a length (`$#`, `a--b`) begins no comment.
    const isApart = mark === "//" || at === 0 || /[\s;(){}]/.test(text[at - 1]);
    if (isApart && text.startsWith(mark, at)) {
      const end = text.indexOf("\n", at);
      return end < 0 ? text.length : end;
    }
  }
  for (const [open, close] of family.block ?? []) {
    if (text.startsWith(open, at)) {
      const end = text.indexOf(close, at + open.length);
      return end < 0 ? text.length : end + close.length;
    }
  }
  return null;
}

/** @param {string} text @param {number} at @param {string} quote */
function stringEnd(text, at, quote) {
  const isLong = quote.length > 1 || quote === "`";
  for (let i = at + quote.length; i < text.length; i += 1) {
    if (text[i] === "\\") i += 1;
    else if (text[i] === "\n" && !isLong) return i;
    else if (text.startsWith(quote, i)) return i + quote.length;
  }
  return text.length;
}

/** @param {string} text @returns {Span[]} */
function markup(text) {
  const spans = new Spans();
  const token = /<!--[^]*?(?:-->|$)|<\/?[A-Za-z][\w:-]*|\/?>|"[^"\n]*"|'[^'\n]*'|[^<>"'/]+|[^]/g;
  for (const [found] of text.matchAll(token)) {
    const isTag = /^<\/?[A-Za-z]|^\/?>$/.test(found);
    const isString = /^(".*"|'.*')$/.test(found);
    spans.add(found.startsWith("<!--") ? "comment" : isTag ? "tag" : isString ? "string" : "plain", found);
  }
  return spans.all;
}

class Spans {
  /** @type {Span[]} */
  all = [];

  /** @param {Span["kind"]} kind @param {string} text */
  add(kind, text) {
    const last = this.all.at(-1);
    if (last && last.kind === kind) last.text += text;
    else this.all.push({ kind, text });
  }
}
