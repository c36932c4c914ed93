// Markdown inside a line: emphasis, code, links. Text in, a tree of plain objects out; no DOM.
//
// Emphasis is paired by emphasis.mjs, in time linear in its marks. HTML is text, save <br>.

import { NO_MARK, PUNCTUATION, flanks, nodesOf, paired, plainText } from "./emphasis.mjs";
import { safeUrl } from "./url.mjs";

/** @typedef {import("./emphasis.mjs").Item} Item */

/**
 * @typedef {{kind: "text", text: string}
 *   | {kind: "code" | "math", text: string}
 *   | {kind: "break"}
 *   | {kind: "strong" | "em" | "del", children: Inline[]}
 *   | {kind: "link", href: string, children: Inline[]}
 *   | {kind: "image", href: string | null, text: string}} Inline
 */

const LONGEST_TARGET = 600;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', nbsp: "\u00a0", "#39": "'" };
const SPECIAL = /[\\`*_~[\]!<&\nh]/g;

/**
 * @param {string} text
 * @returns {Inline[]}
 */
export function parseInline(text) {
  return new Reader(text).read();
}

class Reader {
  /** @param {string} text */
  constructor(text) {
    this.text = text;
    this.at = 0;
    /** @type {Item[]} */
    this.items = [];
    /** Places in items of `[` that may yet begin a link. @type {{at: number, image: boolean}[]} */
    this.brackets = [];
    /** Backtick runs of these lengths have no partner after the key's place. @type {Map<number, number>} */
    this.noPartner = new Map();
  }

  read() {
    const { text } = this;
    while (this.at < text.length) {
      SPECIAL.lastIndex = this.at;
      const found = SPECIAL.exec(text);
      const end = found ? found.index : text.length;
      if (end > this.at) this.addText(text.slice(this.at, end));
      this.at = end;
      if (found) this.special(found[0]);
    }
    return nodesOf(paired(this.items));
  }

  /** @param {string} char */
  special(char) {
    const take =
      {
        "\\": () => this.escape(),
        "`": () => this.code(),
        "*": () => this.mark(),
        _: () => this.mark(),
        "~": () => this.mark(),
        "[": () => this.bracket(false),
        "]": () => this.close(),
        "!": () => this.text[this.at + 1] === "[" && this.bracket(true),
        "<": () => this.angle(),
        "&": () => this.entity(),
        "\n": () => this.newline(),
        h: () => this.bareUrl(),
      }[char] ?? (() => false);
    if (take()) return;
    this.addText(char);
    this.at += 1;
  }

  /** @param {string} text */
  addText(text) {
    const last = this.items.at(-1);
    if (last && !last.mark && last.node.kind === "text") last.node.text += text;
    else this.items.push({ node: { kind: "text", text } });
  }

  /** @param {Inline} node @param {number} end */
  add(node, end) {
    this.items.push({ node });
    this.at = end;
    return true;
  }

  escape() {
    const next = this.text[this.at + 1] ?? "";
    if (next === "(") {
      const part = this.text.slice(this.at + 2, this.at + LONGEST_TARGET);
      const size = part.indexOf("\\)");
      if (size >= 0) return this.add({ kind: "math", text: part.slice(0, size).trim() }, this.at + size + 4);
    }
    if (next === "\n") return this.add({ kind: "break" }, this.at + 2);
    if (!/[!-/:-@[-`{-~]/.test(next)) return false;
    this.items.push({ node: { kind: "text", text: next } });
    this.at += 2;
    return true;
  }

  code() {
    const { text, at } = this;
    let size = 0;
    while (text[at + size] === "`") size += 1;
    const start = at + size;
    if (start < (this.noPartner.get(size) ?? Infinity)) {
      for (let from = text.indexOf("`", start); from >= 0; ) {
        let to = from;
        while (text[to] === "`") to += 1;
        if (to - from === size) {
          return this.add({ kind: "code", text: codeText(text.slice(start, from)) }, to);
        }
        from = text.indexOf("`", to);
      }
      this.noPartner.set(size, start);
    }
    this.addText(text.slice(at, start));
    this.at = start;
    return true;
  }

  mark() {
    const { text, at } = this;
    const char = text[at];
    let end = at;
    while (text[end] === char) end += 1;
    const count = end - at;
    if (char === "~" && count !== 2) {
      this.addText(text.slice(at, end));
      this.at = end;
      return true;
    }
    const [before, after] = [text[at - 1] ?? " ", text[end] ?? " "];
    const left = flanks(before, after);
    const right = flanks(after, before);
    const word = char === "_";
    const opens = left && (!word || !right || PUNCTUATION.test(before));
    const closes = right && (!word || !left || PUNCTUATION.test(after));
    const node = /** @type {Inline} */ ({ kind: "text", text: text.slice(at, end) });
    this.items.push({ node, mark: { char, count, opens, closes } });
    this.at = end;
    return true;
  }

  /** @param {boolean} image */
  bracket(image) {
    this.brackets.push({ at: this.items.length, image });
    const text = image ? "![" : "[";
    // An empty mark keeps the text apart from its neighbours, so that it can be taken out again.
    this.items.push({ node: { kind: "text", text }, mark: NO_MARK });
    this.at += text.length;
    return true;
  }

  close() {
    const open = this.brackets.pop();
    if (!open) return false;
    const target = this.text[this.at + 1] === "(" ? linkTarget(this.text, this.at + 2) : null;
    if (!target) return false;
    const inner = nodesOf(paired(this.items.splice(open.at).slice(1)));
    const href = safeUrl(target.href);
    this.at = target.end;
    if (open.image) {
      this.items.push({ node: { kind: "image", href, text: plainText(inner) } });
    } else if (href === null) {
      // What may not be followed is shown whole: the reader sees what was written.
      for (const node of inner) this.items.push({ node });
      this.items.push({ node: { kind: "text", text: ` (${target.href})` } });
    } else {
      this.items.push({ node: { kind: "link", href, children: inner.map(unlinked) } });
      this.brackets = this.brackets.filter((one) => one.image); // no link within a link
    }
    return true;
  }

  angle() {
    const found = /^<(?:(https?:\/\/[^\s<>]{1,600}|mailto:[^\s<>]{1,200})>|br ?\/?>)/i.exec(
      this.text.slice(this.at, this.at + LONGEST_TARGET + 12),
    );
    if (!found) return false;
    const end = this.at + found[0].length;
    if (!found[1]) return this.add({ kind: "break" }, end);
    const href = safeUrl(found[1]);
    if (href === null) return false;
    return this.add({ kind: "link", href, children: [{ kind: "text", text: found[1] }] }, end);
  }

  entity() {
    const found = /^&(amp|lt|gt|quot|nbsp|#39);/.exec(this.text.slice(this.at, this.at + 8));
    if (!found) return false;
    this.addText(ENTITIES[/** @type {keyof typeof ENTITIES} */ (found[1])]);
    this.at += found[0].length;
    return true;
  }

  newline() {
    const last = this.items.at(-1);
    const isHard = last?.node.kind === "text" && !last.mark && / {2,}$/.test(last.node.text);
    if (!isHard || last?.node.kind !== "text") return false;
    last.node.text = last.node.text.trimEnd();
    return this.add({ kind: "break" }, this.at + 1);
  }

  bareUrl() {
    if (/[\w]/.test(this.text[this.at - 1] ?? " ")) return false;
    const found = /^https?:\/\/[^\s<>"'`|\\^{}[\]*]{1,600}/i.exec(
      this.text.slice(this.at, this.at + LONGEST_TARGET + 12),
    );
    if (!found) return false;
    let shown = found[0].replace(/[.,:;!?…]+$/, "");
    while (shown.endsWith(")") && !shown.includes("(")) shown = shown.slice(0, -1);
    const href = safeUrl(shown);
    if (href === null) return false;
    const children = /** @type {Inline[]} */ ([{ kind: "text", text: shown }]);
    return this.add({ kind: "link", href, children }, this.at + shown.length);
  }
}

/** @param {string} text */
function codeText(text) {
  const line = text.replace(/\n/g, " ");
  const isPadded = line.startsWith(" ") && line.endsWith(" ") && line.trim() !== "";
  return isPadded ? line.slice(1, -1) : line;
}

/** Without links inside, which a link may not hold. @param {Inline} node @returns {Inline} */
function unlinked(node) {
  if (node.kind === "link") return { kind: "text", text: plainText(node.children) };
  if (node.kind === "image") return { kind: "text", text: node.text };
  return "children" in node ? { ...node, children: node.children.map(unlinked) } : node;
}

/**
 * `dest "title")` from `at` on.
 * @param {string} text @param {number} at
 * @returns {{href: string, end: number} | null}
 */
function linkTarget(text, at) {
  const part = text.slice(at, at + LONGEST_TARGET);
  const found = /^[ \n]*(?:<([^<>\n]*)>|([^\s<>()]*(?:\([^\s<>()]*\)[^\s<>()]*)*))(?:[ \n]+(?:"[^"]*"|'[^']*'))?[ \n]*\)/.exec(part);
  return found ? { href: found[1] ?? found[2], end: at + found[0].length } : null;
}
