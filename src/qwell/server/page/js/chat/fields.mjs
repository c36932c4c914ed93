// The request's fields that stand in the panel as they are: one row each. A test ties names and
// ranges to the server's own table.

/**
 * @typedef {object} Field
 * @property {string} name of the request
 * @property {string} label
 * @property {"number" | "whole" | "seed" | "flag" | "lines" | "ids" | "json"} kind
 * @property {number} [min]
 * @property {number} [max]
 * @property {number} [step]
 * @property {string} help
 * @property {"sampling" | "ends" | "more"} group
 */

/** @type {Field[]} */
export const FIELDS = [
  { name: "temperature", label: "Temperature", kind: "number", min: 0, max: 2, step: 0.1, group: "sampling", help: "0 always takes the likeliest token; higher is freer." },
  { name: "top_p", label: "Top P", kind: "number", min: 0, max: 1, step: 0.05, group: "sampling", help: "Keep the likeliest tokens up to this share." },
  { name: "top_k", label: "Top K", kind: "whole", min: -1, max: 2147483647, step: 1, group: "sampling", help: "Keep so many tokens; 0 keeps all." },
  { name: "min_p", label: "Min P", kind: "number", min: 0, max: 1, step: 0.01, group: "sampling", help: "Keep tokens at least so likely relative to the best." },
  { name: "repetition_penalty", label: "Repetition penalty", kind: "number", min: 0.01, max: 100, step: 0.05, group: "sampling", help: "Of tokens seen in prompt or reply; 1 is none." },
  { name: "presence_penalty", label: "Presence penalty", kind: "number", min: -2, max: 2, step: 0.1, group: "sampling", help: "Taken once from tokens of the reply." },
  { name: "frequency_penalty", label: "Frequency penalty", kind: "number", min: -2, max: 2, step: 0.1, group: "sampling", help: "Taken for each use in the reply." },
  { name: "seed", label: "Seed", kind: "seed", step: 1, group: "sampling", help: "The same seed gives the same reply." },
  { name: "max_tokens", label: "Longest reply", kind: "whole", min: 1, max: 2147483647, step: 1, group: "ends", help: "In tokens. Empty: until the model stops or the context is full." },
  { name: "min_tokens", label: "Shortest reply", kind: "whole", min: 0, max: 2147483647, step: 1, group: "ends", help: "No end within so many tokens." },
  { name: "stop", label: "Stop texts", kind: "lines", group: "ends", help: "One a line; the reply ends before the first of them. \\n is a line break." },
  { name: "stop_token_ids", label: "Stop token ids", kind: "ids", group: "ends", help: "Numbers apart by commas." },
  { name: "ignore_eos", label: "Go on after the model’s own end", kind: "flag", group: "ends", help: "" },
  { name: "deadline_s", label: "Deadline", kind: "number", min: 0.001, max: 86400, step: 1, group: "ends", help: "Seconds; then the reply ends as it is." },
  { name: "n", label: "Replies at once", kind: "whole", min: 1, max: 128, step: 1, group: "more", help: "Each becomes a version you can switch to." },
  { name: "top_logprobs", label: "Show likely tokens", kind: "whole", min: 0, max: 20, step: 1, group: "more", help: "Log-probabilities, and so many alternatives; see Details under a reply." },
  { name: "logit_bias", label: "Logit bias", kind: "json", group: "more", help: "Token id → number added to its logit: {\"1234\": -100}" },
  { name: "chat_template_kwargs", label: "Template variables", kind: "json", group: "more", help: "A JSON object for the chat template." },
];

/** Thrown for a setting that cannot be sent; one line. */
export class SettingError extends Error {
  /** @param {string} field @param {string} message */
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

/**
 * The value to send for the text that was typed; undefined for none. Throws SettingError.
 * @param {Field} field @param {string | undefined} text
 * @returns {unknown}
 */
export function readField(field, text) {
  const trimmed = text?.trim() ?? "";
  if (trimmed === "") return undefined;
  if (field.kind === "number" || field.kind === "whole") return readNumber(field, trimmed);
  if (field.kind === "seed") return readSeed(field, trimmed);
  if (field.kind === "flag") return trimmed === "true" ? true : undefined;
  if (field.kind === "lines") return readLines(field, text ?? "");
  if (field.kind === "ids") return readIds(field, trimmed);
  return readObject(field.name, field.label, trimmed);
}

/** @param {Field} field @param {string} text */
function readNumber(field, text) {
  const value = Number(text.replace(",", "."));
  const { min = -Infinity, max = Infinity } = field;
  const isRight = Number.isFinite(value) && value >= min && value <= max;
  if (!isRight || (field.kind === "whole" && !Number.isSafeInteger(value))) {
    const what = field.kind === "whole" ? "a whole number" : "a number";
    throw new SettingError(field.name, `${field.label}: give ${what} from ${min} to ${max}`);
  }
  return value;
}

/** 64 bits: more than a JavaScript number holds. @param {Field} field @param {string} text */
function readSeed(field, text) {
  const value = /^[+-]?\d{1,19}$/.test(text) ? BigInt(text) : null;
  if (value === null || BigInt.asIntN(64, value) !== value) {
    throw new SettingError(field.name, `${field.label}: give a whole number of 64 bits`);
  }
  return value;
}

/** @param {Field} field @param {string} text */
function readLines(field, text) {
  const lines = text.split("\n").filter(Boolean).map((line) => line.replace(/\\(n|t|\\)/g, (_, char) => ({ n: "\n", t: "\t" })[/** @type {string} */ (char)] ?? "\\"));
  if (lines.length > 16) throw new SettingError(field.name, `${field.label}: give at most 16`);
  return lines.length ? lines : undefined;
}

/** @param {Field} field @param {string} text */
function readIds(field, text) {
  const ids = text.split(/[\s,]+/).filter(Boolean);
  if (ids.length > 64 || !ids.every((id) => /^\d{1,9}$/.test(id))) {
    throw new SettingError(field.name, `${field.label}: give at most 64 token ids apart by commas`);
  }
  return ids.map(Number);
}

/** @param {string} name @param {string} label @param {string} text @returns {Record<string, unknown>} */
export function readObject(name, label, text) {
  const value = readJson(name, label, text);
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new SettingError(name, `${label}: give a JSON object`);
  }
  return /** @type {Record<string, unknown>} */ (value);
}

/** @param {string} name @param {string} label @param {string} text @returns {unknown} */
export function readJson(name, label, text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new SettingError(name, `${label}: this is no JSON (${/** @type {Error} */ (error).message})`);
  }
}
