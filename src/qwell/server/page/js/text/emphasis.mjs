// Emphasis: which runs of `*`, `_` and `~~` open and close, and how they pair. No DOM.

/** @typedef {import("./inline.mjs").Inline} Inline */
/** @typedef {{node: Inline, mark?: Mark}} Item */
/** @typedef {{char: string, count: number, opens: boolean, closes: boolean}} Mark */

const DEEPEST = 24;
export const PUNCTUATION = /[!-/:-@[-`{-~\u2010-\u2027\u3001-\u3011\uff01-\uff0f]/;

/** A mark that never pairs: it keeps a text apart from its neighbours. */
export const NO_MARK = Object.freeze({ char: "", count: 0, opens: false, closes: false });

/** The visible text of a tree. @param {Inline[]} nodes @returns {string} */
export function plainText(nodes) {
  return nodes
    .map((node) => {
      if (node.kind === "break") return "\n";
      return "children" in node ? plainText(node.children) : node.text;
    })
    .join("");
}

/** Whether a run with these neighbours may open, by CommonMark's rule. */
export function flanks(/** @type {string} */ before, /** @type {string} */ after) {
  if (/\s/.test(after)) return false;
  return !PUNCTUATION.test(after) || /\s/.test(before) || PUNCTUATION.test(before);
}

/**
 * CommonMark's "process emphasis": pairs the marks; those left over stay text.
 * @param {Item[]} items @returns {Item[]}
 */
export function paired(items) {
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
export function nodesOf(items) {
  /** @type {Inline[]} */
  const nodes = [];
  for (const { node } of items) {
    const last = nodes.at(-1);
    if (node.kind === "text" && last?.kind === "text") nodes[nodes.length - 1] = { kind: "text", text: last.text + node.text };
    else if (node.kind !== "text" || node.text) nodes.push(node);
  }
  return nodes;
}
