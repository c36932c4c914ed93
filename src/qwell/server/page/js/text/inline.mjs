// Markdown inside a line: emphasis, code, links. Text in, a tree of plain objects out; no DOM.
//
// Delimiters follow CommonMark's stack algorithm, so no input takes more than linear time in its
// delimiters. HTML is text, save <br>.

import { safeUrl } from "./url.mjs";

/**
 * @typedef {{kind: "text", text: string}
 *   | {kind: "code" | "math", text: string}
 *   | {kind: "break"}
 *   | {kind: "strong" | "em" | "del", children: Inline[]}
 *   | {kind: "link", href: string, children: Inline[]}
 *   | {kind: "image", href: string | null, text: string}} Inline
 */

/** @typedef {{node: Inline, mark?: Mark}} Item */
/** @typedef {{char: string, count: number, opens: boolean, closes: boolean}} Mark */

const DEEPEST = 24;
const LONGEST_TARGET = 600;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', nbsp: "\u00a0", "#39": "'" };
const PUNCTUATION = /[!-/:-@[-`{-~\u2010-\u2027\u3001-\u3011\uff01-\uff0f]/;
const SPECIAL = /[\\`*_~[\]!<&\nh]/g;

/**
 * @param {string} text
 * @returns {Inline[]}
 */
export function parseInline(text) {
  return new Reader(text).read();
}

/** The visible text of a tree. @param {Inline[]} nodes @returns {string} */
export function plainText(nodes) {
  return nodes
    .map((node) => {
      if (node.kind === "break") return "\n";
      return "children" in node ? plainText(node.children) : node.text;
    })
    .join("");
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

const NO_MARK = Object.freeze({ char: "", count: 0, opens: false, closes: false });

/** Whether a run with these neighbours may open, by CommonMark's rule. */
function flanks(/** @type {string} */ before, /** @type {string} */ after) {
  if (/\s/.test(after)) return false;
  return !PUNCTUATION.test(after) || /\s/.test(before) || PUNCTUATION.test(before);
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

/**
 * CommonMark's "process emphasis": pairs the marks; those left over stay text.
 * @param {Item[]} items @returns {Item[]}
 */
function paired(items) {
  /** @type {Item[]} */
  const out = [];
  /** Places in `out` of marks that may yet open, one stack for each kind. @type {Record<string, number[]>} */
  const openers = { "*": [], _: [], "~": [] };
  /** Depth of what has been made so far at a place. @type {WeakMap<Inline, number>} */
  const depths = new WeakMap();
  for (const item of items) {
    const mark = item.mark;
    if (mark && mark.closes) closeMarks(out, openers, item, depths);
    if (mark && mark !== NO_MARK && mark.count === 0) continue;
    if (mark?.opens) openers[mark.char].push(out.length);
    out.push(item);
  }
  return out;
}

/**
 * @param {Item[]} out @param {Record<string, number[]>} openers @param {Item} closer
 * @param {WeakMap<Inline, number>} depths
 */
function closeMarks(out, openers, closer, depths) {
  const mark = /** @type {Mark} */ (closer.mark);
  const stack = openers[mark.char];
  while (mark.count > 0) {
    const place = openerFor(out, stack, mark);
    if (place < 0) break;
    const at = stack[place];
    const open = /** @type {Mark} */ (out[at].mark);
    const size = mark.char === "~" || (open.count > 1 && mark.count > 1) ? 2 : 1;
    const children = nodesOf(out.splice(at + 1));
    for (const places of Object.values(openers)) while ((places.at(-1) ?? -1) > at) places.pop();
    shrink(out[at], size);
    shrink(closer, size);
    if (open.count === 0) {
      out.pop();
      stack.pop();
    }
    wrap(out, mark.char === "~" ? "del" : size === 2 ? "strong" : "em", children, depths);
  }
}

/** Place in the stack of the nearest mark that `close` may end; looks back a little, no more.
 * @param {Item[]} out @param {number[]} stack @param {Mark} close */
function openerFor(out, stack, close) {
  for (let place = stack.length - 1; place >= Math.max(0, stack.length - 8); place -= 1) {
    if (fits(/** @type {Mark} */ (out[stack[place]].mark), close)) return place;
  }
  return -1;
}

/** @param {Item[]} out @param {"del" | "strong" | "em"} kind @param {Inline[]} children
 * @param {WeakMap<Inline, number>} depths */
function wrap(out, kind, children, depths) {
  const depth = 1 + children.reduce((most, one) => Math.max(most, depths.get(one) ?? 0), 0);
  if (depth > DEEPEST) {
    // As one text: kept apart, the same children would be moved again at every level above.
    out.push({ node: { kind: "text", text: plainText(children) } });
    return;
  }
  const node = /** @type {Inline} */ ({ kind, children });
  depths.set(node, depth);
  out.push({ node });
}

/** @param {Mark} open @param {Mark} close */
function fits(open, close) {
  if (open.char === "~") return true;
  const isBoth = (open.opens && open.closes) || (close.opens && close.closes);
  return !isBoth || (open.count + close.count) % 3 !== 0 || (open.count % 3 === 0 && close.count % 3 === 0);
}

/** @param {Item} item @param {number} size */
function shrink(item, size) {
  const mark = /** @type {Mark} */ (item.mark);
  mark.count -= size;
  item.node = { kind: "text", text: mark.char.repeat(mark.count) };
}

/** Items without their marks; neighbouring texts become one. @param {Item[]} items @returns {Inline[]} */
function nodesOf(items) {
  /** @type {Inline[]} */
  const nodes = [];
  for (const { node } of items) {
    const last = nodes.at(-1);
    if (node.kind === "text" && last?.kind === "text") nodes[nodes.length - 1] = { kind: "text", text: last.text + node.text };
    else if (node.kind !== "text" || node.text) nodes.push(node);
  }
  return nodes;
}
