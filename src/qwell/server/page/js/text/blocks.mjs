// Markdown's blocks: lines in, a tree of plain objects out; no DOM.
//
// Every line becomes part of exactly one block, so nothing a model says can vanish. Nesting ends at
// DEEPEST: what is deeper is plain text. Fences may be open: a stream is shown before it has ended.

import { parseInline } from "./inline.mjs";

/** @typedef {import("./inline.mjs").Inline} Inline */
/**
 * @typedef {{kind: "paragraph", children: Inline[]}
 *   | {kind: "heading", level: number, children: Inline[]}
 *   | {kind: "code", info: string, text: string, isOpen: boolean}
 *   | {kind: "math", text: string}
 *   | {kind: "rule"}
 *   | {kind: "quote", children: Block[]}
 *   | {kind: "list", isOrdered: boolean, start: number, isTight: boolean, items: ListItem[]}
 *   | {kind: "table", aligns: string[], head: Inline[][], rows: Inline[][][]}} Block
 */
/** @typedef {{checked: boolean | null, children: Block[]}} ListItem */
/** @typedef {{source: string, block: Block}} Part */

const DEEPEST = 8;
const MOST_COLUMNS = 64;
const FENCE = /^( {0,3})(`{3,}|~{3,})[ \t]*([^\n]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:( +)(.*)|)$/;
const QUOTE = /^ {0,3}> ?/;
const DIVIDER = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

/**
 * The top blocks with the text each was made of, so that a stream redraws its last block alone.
 * @param {string} text
 * @returns {Part[]}
 */
export function parseParts(text) {
  const lines = text.replace(/\r\n?/g, "\n").replace(/\t/g, "    ").split("\n");
  return blocksOf(lines, 0);
}

/** @param {string} text @returns {Block[]} */
export function parseMarkdown(text) {
  return parseParts(text).map((part) => part.block);
}

/** @param {string[]} lines @param {number} depth @returns {Part[]} */
function blocksOf(lines, depth) {
  /** @type {Part[]} */
  const parts = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const [block, end] = blockAt(lines, at, depth);
    parts.push({ source: lines.slice(at, end).join("\n"), block });
    at = end;
  }
  return parts;
}

/** @param {string[]} lines @param {number} at @param {number} depth @returns {[Block, number]} */
function blockAt(lines, at, depth) {
  const line = lines[at];
  const heading = HEADING.exec(line);
  if (heading) {
    const children = parseInline(heading[2] ?? "");
    return [{ kind: "heading", level: heading[1].length, children }, at + 1];
  }
  if (isFence(line)) return fenceAt(lines, at);
  if (isMath(line)) return mathAt(lines, at);
  if (RULE.test(line)) return [{ kind: "rule" }, at + 1];
  if (depth < DEEPEST && QUOTE.test(line)) return quoteAt(lines, at, depth);
  if (depth < DEEPEST && ITEM.test(line)) return listAt(lines, at, depth);
  if (isTable(lines, at)) return tableAt(lines, at);
  return paragraphAt(lines, at, depth);
}

/** @param {string} line */
function isFence(line) {
  const found = FENCE.exec(line);
  return found !== null && !(found[2][0] === "`" && found[3].includes("`"));
}

/** @param {string[]} lines @param {number} at @returns {[Block, number]} */
function fenceAt(lines, at) {
  const [, indent, fence, info] = /** @type {RegExpExecArray} */ (FENCE.exec(lines[at]));
  const closing = new RegExp(`^ {0,3}\\${fence[0]}{${fence.length},} *$`);
  let end = at + 1;
  while (end < lines.length && !closing.test(lines[end])) end += 1;
  const isOpen = end >= lines.length;
  const cut = new RegExp(`^ {0,${indent.length}}`);
  const text = lines.slice(at + 1, end).map((line) => line.replace(cut, "")).join("\n");
  return [{ kind: "code", info: info.trim(), text, isOpen }, isOpen ? end : end + 1];
}

/** @param {string} line */
function isMath(line) {
  return /^ {0,3}(\\\[|\$\$)/.test(line);
}

/** @param {string[]} lines @param {number} at @returns {[Block, number]} */
function mathAt(lines, at) {
  const close = lines[at].trimStart().startsWith("$$") ? "$$" : "\\]";
  const first = lines[at].trimStart().slice(2);
  let end = at;
  let rest = first;
  while (!rest.includes(close) && end + 1 < lines.length) rest = lines[(end += 1)];
  const all = [first, ...lines.slice(at + 1, end + 1)].join("\n");
  const cut = all.indexOf(close);
  if (cut >= 0 && !all.slice(cut + 2).trim()) {
    return [{ kind: "math", text: all.slice(0, cut).trim() }, end + 1];
  }
  return [{ kind: "paragraph", children: parseInline(lines[at]) }, at + 1];
}

/** @param {string[]} lines @param {number} at @param {number} depth @returns {[Block, number]} */
function quoteAt(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return [{ kind: "quote", children: blocksOf(inner, depth + 1).map((part) => part.block) }, end];
}

/** @param {string[]} lines @param {number} at @param {number} depth @returns {[Block, number]} */
function listAt(lines, at, depth) {
  const first = /** @type {RegExpExecArray} */ (ITEM.exec(lines[at]));
  const kind = kindOf(first[2]);
  /** @type {string[][]} */
  const bodies = [];
  let [inset, end, hasGap] = [0, at, false];
  for (; end < lines.length; end += 1) {
    const line = lines[end];
    const item = ITEM.exec(line);
    const indent = line.length - line.trimStart().length;
    const isBlank = !line.trim();
    const isNext = item && (!bodies.length || (indent < inset && indent <= first[1].length + 1));
    if (isNext && !RULE.test(line) && kindOf(item[2]) === kind) {
      hasGap ||= bodies.length > 0 && !lines[end - 1].trim();
      inset = item[1].length + item[2].length + Math.min(4, item[3]?.length ?? 1);
      bodies.push([item[4] ?? ""]);
    } else if (isBlank || indent >= Math.min(inset, first[1].length + 2)) {
      if (isBlank && !continues(lines, end, first[1].length, kind)) break;
      bodies[bodies.length - 1].push(line.slice(Math.min(indent, inset)));
    } else if (lines[end - 1].trim() && isLazy(line, lines, end)) {
      bodies[bodies.length - 1].push(line.trimStart());
    } else break;
  }
  const items = bodies.map((body) => itemOf(body, depth));
  hasGap ||= items.some(({ children }) => children.filter((one) => one.kind === "paragraph").length > 1);
  const start = Number.parseInt(first[2], 10);
  const isOrdered = !Number.isNaN(start);
  return [{ kind: "list", isOrdered, start: isOrdered ? start : 1, isTight: !hasGap, items }, end];
}

/** A list of one kind goes on with marks of that kind. @param {string} mark */
function kindOf(mark) {
  return /\d/.test(mark) ? mark.at(-1) : mark;
}

/** Whether the list goes on behind the blank line at `at`.
 * @param {string[]} lines @param {number} at @param {number} base @param {string | undefined} kind */
function continues(lines, at, base, kind) {
  let next = at;
  while (next < lines.length && !lines[next].trim()) next += 1;
  if (next === lines.length) return false;
  const indent = lines[next].length - lines[next].trimStart().length;
  const item = ITEM.exec(lines[next]);
  return indent >= base + 2 || (item !== null && kindOf(item[2]) === kind && indent <= base + 1 && !RULE.test(lines[next]));
}

/** Whether a line that is not indented still belongs to the paragraph before it.
 * @param {string} line @param {string[]} lines @param {number} at */
function isLazy(line, lines, at) {
  return !startsBlock(line) && !ITEM.test(line) && !isTable(lines, at);
}

/** @param {string} line */
function startsBlock(line) {
  return HEADING.test(line) || isFence(line) || RULE.test(line) || QUOTE.test(line) || isMath(line);
}

/** @param {string[]} body @param {number} depth @returns {ListItem} */
function itemOf(body, depth) {
  const box = /^\[([ xX])\] +/.exec(body[0]);
  const lines = box ? [body[0].slice(box[0].length), ...body.slice(1)] : body;
  const children = blocksOf(lines, depth + 1).map((part) => part.block);
  return { checked: box ? box[1] !== " " : null, children };
}

/** @param {string[]} lines @param {number} at */
function isTable(lines, at) {
  const [head, rule] = [lines[at], lines[at + 1] ?? ""];
  if (!head.includes("|") || !rule.includes("-") || !DIVIDER.test(rule)) return false;
  const columns = cells(head).length;
  return columns === cells(rule).length && columns <= MOST_COLUMNS;
}

/** @param {string[]} lines @param {number} at @returns {[Block, number]} */
function tableAt(lines, at) {
  const head = cells(lines[at]).map(parseInline);
  const aligns = cells(lines[at + 1]).map((cell) =>
    cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : "left",
  );
  let end = at + 2;
  const rows = [];
  for (; end < lines.length && lines[end].includes("|") && lines[end].trim(); end += 1) {
    const row = cells(lines[end]);
    // More cells than columns go into the last one: nothing vanishes.
    const fit = row.length > head.length ? [...row.slice(0, head.length - 1), row.slice(head.length - 1).join(" | ")] : row;
    rows.push(head.map((_, i) => parseInline(fit[i] ?? "")));
  }
  return [{ kind: "table", aligns, head, rows }, end];
}

/** @param {string} line @returns {string[]} */
function cells(line) {
  const found = [""];
  let isCode = false;
  const text = line.trim().replace(/^\|/, "").replace(/(^|[^\\])\|$/, "$1");
  for (let i = 0; i < text.length; i += 1) {
    if (text[i] === "\\" && text[i + 1] === "|") {
      found[found.length - 1] += "|";
      i += 1;
    } else if (text[i] === "|" && !isCode) found.push("");
    else {
      if (text[i] === "`") isCode = !isCode && text.indexOf("`", i + 1) > 0;
      found[found.length - 1] += text[i];
    }
  }
  return found.map((cell) => cell.trim());
}

/** @param {string[]} lines @param {number} at @param {number} depth @returns {[Block, number]} */
function paragraphAt(lines, at, depth) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !interrupts(lines, end, depth)) end += 1;
  const text = lines.slice(at, end).map((line) => line.trimStart()).join("\n").trimEnd();
  return [{ kind: "paragraph", children: parseInline(text) }, end];
}

/** @param {string[]} lines @param {number} at @param {number} depth */
function interrupts(lines, at, depth) {
  const line = lines[at];
  if (QUOTE.test(line) && depth >= DEEPEST) return false;
  if (startsBlock(line) || isTable(lines, at)) return true;
  const item = ITEM.exec(line);
  // As in CommonMark, a number within a text ("in\n1984. It was") is no list unless it is 1.
  return depth < DEEPEST && item !== null && Boolean(item[4]) && (!/\d/.test(item[2]) || Number.parseInt(item[2], 10) === 1);
}
