// Conversations as a file and back. What comes in is checked whole before any of it is kept: each
// field by name, each reference, each size. A refusal is one line that says where. Pure.

import { FIELDS } from "./fields.mjs";
import { newId } from "./tree.mjs";

/** @typedef {import("./types.mjs").Conversation} Conversation */
/** @typedef {(value: any, where: string) => any} Check gives the value to keep or throws ImportError */

export const FORMAT = "qwell-conversations";
export const VERSION = 1;
export const LARGEST = 64 << 20;
const [MOST_CONVERSATIONS, MOST_TURNS] = [10_000, 20_000];

/** Why a file was refused. */
export class ImportError extends Error {}

/** @param {Conversation[]} conversations @returns {string} */
export function exportText(conversations) {
  const all = conversations.map((one) => ({
    ...one,
    turns: one.turns.map((turn) => (turn.status === "streaming" ? { ...turn, status: "interrupted" } : turn)),
  }));
  return `${JSON.stringify({ format: FORMAT, version: VERSION, conversations: all }, null, 1)}\n`;
}

/**
 * The conversations of a file. Throws ImportError. Ids that are `taken` are changed.
 * @param {string} text @param {Set<string>} taken
 * @returns {Conversation[]}
 */
export function importText(text, taken) {
  if (text.length > LARGEST) throw new ImportError(`The file is larger than ${LARGEST >> 20} MiB`);
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new ImportError("The file is no JSON");
  }
  if (value?.format !== FORMAT) throw new ImportError(`The file is no export of qwell: its "format" is not "${FORMAT}"`);
  if (value.version !== VERSION) throw new ImportError(`The file has version ${show(value.version)}: this page reads version ${VERSION}`);
  const { conversations } = record({ format: anyText, version: number, conversations: list(conversation, MOST_CONVERSATIONS) })(value, "");
  const known = new Set(taken);
  for (const one of conversations) {
    if (known.has(one.id)) one.id = newId();
    known.add(one.id);
  }
  return conversations;
}

/** @param {unknown} value */
const show = (value) => (JSON.stringify(value) ?? "missing").slice(0, 40);

/** @param {string} where @param {unknown} value @param {string} expected @returns {never} */
function refuse(where, value, expected) {
  const what = value === undefined ? "missing" : typeof value === "object" && value !== null ? (Array.isArray(value) ? "a list" : "an object") : show(value);
  throw new ImportError(`${where || "The file"} is ${what}: expected ${expected}`);
}

/** @param {number} most @returns {Check} */
const text = (most) => (value, where) => (typeof value === "string" && value.length <= most ? value : refuse(where, typeof value === "string" ? value.length : value, `a text of at most ${most} characters`));
const anyText = text(LARGEST);
/** @type {Check} */
const number = (value, where) => (typeof value === "number" && Number.isFinite(value) ? value : refuse(where, value, "a number"));
/** @type {Check} */
const flag = (value, where) => (typeof value === "boolean" ? value : refuse(where, value, "true or false"));
/** @type {Check} */
const id = (value, where) => (typeof value === "string" && /^[0-9a-f]{8,64}$/.test(value) ? value : refuse(where, value, "an id of hexadecimal digits"));
/** @param {Check} check @returns {Check} */
const optional = (check) => (value, where) => (value === null ? null : check(value, where));
/** @param {string[]} names @returns {Check} */
const among = (...names) => (value, where) => (names.includes(value) ? value : refuse(where, value, `one of ${names.join(", ")}`));

/** @param {Check} check @param {number} most @returns {Check} */
function list(check, most) {
  return (value, where) => {
    if (!Array.isArray(value)) refuse(where, value, "a list");
    if (value.length > most) throw new ImportError(`${where} has ${value.length} entries: at most ${most} are taken`);
    return value.map((/** @type {any} */ one, /** @type {number} */ i) => check(one, `${where}[${i}]`));
  };
}

/** An object with exactly these fields. @param {Record<string, Check>} checks @returns {Check} */
function record(checks) {
  return (value, where) => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) refuse(where, value, "an object");
    const dot = where ? `${where}.` : "";
    const strange = Object.keys(value).find((name) => !Object.hasOwn(checks, name));
    if (strange !== undefined) throw new ImportError(`${dot}${strange.slice(0, 40)} is no field of an export`);
    return Object.fromEntries(Object.entries(checks).map(([name, check]) => [name, check(Object.hasOwn(value, name) ? value[name] : undefined, `${dot}${name}`)]));
  };
}

/** An object of texts with names that `isName` takes. @param {(name: string) => boolean} isName @param {Check} check @returns {Check} */
function mapped(isName, check) {
  return (value, where) => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) refuse(where, value, "an object");
    const names = Object.keys(value);
    const strange = names.find((name) => !isName(name));
    if (strange !== undefined) throw new ImportError(`${where} has the unknown name ${show(strange)}`);
    return Object.fromEntries(names.map((name) => [name, check(value[name], `${where}.${name}`)]));
  };
}

/** Facts of the server, shown as text alone: any JSON of bounded depth. @type {Check} */
function facts(value, where) {
  if (value === null) return null;
  if (typeof value !== "object" || Array.isArray(value)) refuse(where, value, "an object");
  const left = { count: 5000 };
  return copied(value, where, 0, left);
}

/** @param {any} value @param {string} where @param {number} depth @param {{count: number}} left @returns {any} */
function copied(value, where, depth, left) {
  left.count -= 1;
  if (depth > 12 || left.count < 0) throw new ImportError(`${where} is too deep or too large`);
  if (Array.isArray(value)) return value.map((one) => copied(one, where, depth + 1, left));
  if (typeof value !== "object" || value === null) return value;
  const names = Object.keys(value).filter((name) => name !== "__proto__");
  return Object.fromEntries(names.map((name) => [name, copied(value[name], where, depth + 1, left)]));
}

const settings = record({
  system: anyText,
  fields: mapped((name) => FIELDS.some((field) => field.name === name), text(100_000)),
  tools: anyText,
  toolChoice: text(80),
  parallel: flag,
  format: among("text", "json_object", "json_schema", "regex", "grammar", "choice"),
  formatText: anyText,
});

const prob = record({ token: text(1000), logprob: number, top: list(record({ token: text(1000), logprob: number }), 20) });

const turn = record({
  id,
  parent: optional(id),
  role: among("user", "assistant", "tool"),
  content: anyText,
  created: number,
  status: among("done", "stopped", "interrupted", "failed"),
  calls: list(record({ id: text(256), name: text(256), arguments: anyText }), 1024),
  callId: optional(text(256)),
  finish: optional(text(64)),
  malformed: flag,
  edited: flag,
  fault: optional(record({ status: number, code: optional(text(64)), param: optional(text(256)), message: text(4000), retryAt: optional(number) })),
  usage: optional(record({ prompt: number, reply: number, cached: number, isRest: flag })),
  speed: optional(record({ firstMs: number, lastMs: number, pieces: number })),
  model: optional(text(256)),
  truth: facts,
  logprobs: list(prob, 1_000_000),
});

const shape = record({
  id,
  title: text(400),
  isNamed: flag,
  created: number,
  updated: number,
  settings,
  turns: list(turn, MOST_TURNS),
  selected: mapped((name) => name === "root" || /^[0-9a-f]{8,64}$/.test(name), id),
});

/** @type {Check} */
function conversation(value, where) {
  const found = /** @type {Conversation} */ (shape(value, where));
  const seen = new Map();
  found.turns.forEach((one, i) => {
    const at = `${where}.turns[${i}]`;
    if (seen.has(one.id)) throw new ImportError(`${at}.id is there twice`);
    // A parent stands before its children, so there can be no circle.
    if (one.parent !== null && !seen.has(one.parent)) throw new ImportError(`${at}.parent is no turn before it`);
    seen.set(one.id, one);
  });
  for (const [parent, child] of Object.entries(found.selected)) {
    const isChild = (seen.get(child)?.parent ?? "root") === parent && seen.has(child);
    if (!isChild) throw new ImportError(`${where}.selected.${parent} is no child of it`);
  }
  return found;
}
