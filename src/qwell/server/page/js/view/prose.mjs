// Trees of text/blocks.mjs become elements. Tags come from this file, never from a text.

import { parseParts } from "../text/blocks.mjs";
import { highlight } from "../text/highlight.mjs";
import { prettyJson } from "../text/json.mjs";
import { copyButton, el } from "./dom.mjs";

/** @typedef {import("../text/inline.mjs").Inline} Inline */
/** @typedef {import("../text/blocks.mjs").Block} Block */

/** A text that grows: only blocks that changed are drawn anew. */
export class Prose {
  /** @type {{source: string, element: HTMLElement}[]} */
  #drawn = [];

  constructor() {
    this.element = el("div", { class: "prose" });
  }

  /** @param {string} text */
  update(text) {
    const parts = parseParts(text);
    let same = 0;
    // The last one drawn may have been open (a fence, a list): it is drawn again when text follows.
    while (same < Math.min(parts.length, this.#drawn.length) && parts[same].source === this.#drawn[same].source) same += 1;
    for (const old of this.#drawn.splice(same)) old.element.remove();
    for (const { source, block } of parts.slice(same)) {
      const element = drawBlock(block);
      this.#drawn.push({ source, element });
      this.element.append(element);
    }
  }
}

/** @param {Block} block @returns {HTMLElement} */
function drawBlock(block) {
  switch (block.kind) {
    case "paragraph":
      return el("p", { dir: "auto" }, ...drawAll(block.children));
    case "heading":
      // The page and the turn have headings of their own above these.
      return el(/** @type {"h3"} */ (`h${Math.min(6, block.level + 2)}`), { dir: "auto", class: `level-${block.level}` }, ...drawAll(block.children));
    case "code":
      return codeBlock(block.text, block.info);
    case "math":
      return el("pre", { class: "math", text: block.text });
    case "rule":
      return el("hr");
    case "quote":
      return el("blockquote", {}, ...block.children.map(drawBlock));
    case "list":
      return drawList(block);
    case "table":
      return drawTable(block);
  }
}

/** @param {Block & {kind: "list"}} list */
function drawList(list) {
  const items = list.items.map(({ checked, children }) => {
    const inner = children.flatMap((child) => (list.isTight && child.kind === "paragraph" ? drawAll(child.children) : [drawBlock(child)]));
    const box = checked === null ? null : el("input", { type: "checkbox", disabled: true, checked, "aria-label": checked ? "done" : "to do" });
    return el("li", { dir: "auto", class: checked === null ? null : "task" }, box, ...inner);
  });
  return el(list.isOrdered ? "ol" : "ul", { start: list.isOrdered && list.start !== 1 ? list.start : null }, ...items);
}

/** @param {Block & {kind: "table"}} table */
function drawTable(table) {
  /** @param {"th" | "td"} tag @param {Inline[][]} row */
  const drawRow = (tag, row) => el("tr", {}, ...row.map((cell, i) => el(tag, { class: `align-${table.aligns[i]}`, scope: tag === "th" ? "col" : null, dir: "auto" }, ...drawAll(cell))));
  const body = table.rows.map((row) => drawRow("td", row));
  const made = el("table", {}, el("thead", {}, drawRow("th", table.head)), el("tbody", {}, ...body));
  return el("div", { class: "table-frame", tabindex: "0", role: "group", "aria-label": "Table" }, made);
}

/** @param {Inline[]} nodes @returns {Node[]} */
function drawAll(nodes) {
  return nodes.map(drawInline);
}

/** @param {Inline} node @returns {Node} */
function drawInline(node) {
  switch (node.kind) {
    case "text":
      return document.createTextNode(node.text);
    case "break":
      return el("br");
    case "code":
      return el("code", { text: node.text });
    case "math":
      return el("code", { class: "math", text: node.text });
    case "image":
      return drawImage(node);
    case "link":
      return drawLink(node.href, ...drawAll(node.children));
    default:
      return el(node.kind, {}, ...drawAll(node.children));
  }
}

/** @param {string} href @param {(Node | string)[]} children */
function drawLink(href, ...children) {
  return el("a", { href, target: "_blank", rel: "noopener noreferrer nofollow", title: href }, ...children);
}

/** Images are not fetched: asking for one would tell its server what was said here.
 * @param {Inline & {kind: "image"}} image */
function drawImage(image) {
  const label = `image: ${image.text || "without a description"}`;
  return image.href ? drawLink(image.href, label) : el("span", { class: "no-image", text: label });
}

/**
 * Code with its language, colours and a copy button.
 * @param {string} text @param {string} info what stood behind the fence: first the language
 */
export function codeBlock(text, info) {
  const language = info.split(/[\s{,:]/)[0];
  const code = el("code", {}, ...highlight(text, language).map(({ kind, text: part }) => (kind === "plain" ? document.createTextNode(part) : el("span", { class: `code-${kind}`, text: part }))));
  const name = info || "text";
  return el(
    "figure",
    { class: "code" },
    el("figcaption", {}, el("span", { text: name }), copyButton("Copy code", () => text)),
    el("pre", { tabindex: "0", role: "group", "aria-label": `Code, ${name}` }, code),
  );
}

/** JSON made readable; null for a text that is none. @param {string} text */
export function jsonBlock(text) {
  const pretty = prettyJson(text);
  return pretty === null ? null : codeBlock(pretty, "json");
}

/** What a user typed, as typed: only fenced code is set apart. @param {string} text */
export function typedText(text) {
  const place = el("div", { class: "typed", dir: "auto" });
  const fence = /^(`{3,}|~{3,})([^\n`]*)\n([^]*?)^\1[ \t]*$/gm;
  let at = 0;
  for (const found of text.matchAll(fence)) {
    const before = text.slice(at, found.index).replace(/^\n|\n$/g, "");
    if (before) place.append(el("p", { text: before }));
    place.append(codeBlock(found[3].replace(/\n$/, ""), found[2].trim()));
    at = found.index + found[0].length;
  }
  const rest = text.slice(at).replace(/^\n/, "");
  if (rest || !at) place.append(el("p", { text: rest }));
  return place;
}
