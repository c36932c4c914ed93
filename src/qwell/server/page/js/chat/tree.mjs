// A conversation is a tree of turns with one path shown. Pure: values in, values changed in place.

/** @typedef {import("./types.mjs").Turn} Turn */
/** @typedef {import("./types.mjs").Conversation} Conversation */
/** @typedef {import("./types.mjs").Settings} Settings */

const ROOT = "root";

/** Random and hexadecimal; crypto.randomUUID is missing on plain http. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @returns {Settings} */
export function newSettings() {
  return { system: "", fields: {}, tools: "", toolChoice: "auto", parallel: true, format: "text", formatText: "" };
}

/** @param {number} now @returns {Conversation} */
export function newConversation(now) {
  return { id: newId(), title: "New conversation", isNamed: false, created: now, updated: now, settings: newSettings(), turns: [], selected: {} };
}

/**
 * Adds a turn under `parent` and shows it.
 * @param {Conversation} conversation @param {string | null} parent
 * @param {Partial<Turn> & {role: Turn["role"]}} parts @param {number} now
 * @returns {Turn}
 */
export function addTurn(conversation, parent, parts, now) {
  /** @type {Turn} */
  const turn = {
    id: newId(), parent, content: "", created: now, status: "done", calls: [], callId: null, finish: null,
    malformed: false, edited: false, fault: null, usage: null, speed: null, model: null, truth: null, logprobs: [],
    ...parts,
  };
  conversation.turns.push(turn);
  conversation.selected[parent ?? ROOT] = turn.id;
  conversation.updated = now;
  if (!conversation.isNamed && turn.role === "user" && parent === null) conversation.title = titleOf(turn.content);
  return turn;
}

/** The turns shown, first to last. @param {Conversation} conversation @returns {Turn[]} */
export function shownPath(conversation) {
  const children = childrenByParent(conversation);
  const path = [];
  for (let at = ROOT; children.has(at); ) {
    const all = /** @type {Turn[]} */ (children.get(at));
    const turn = all.find((one) => one.id === conversation.selected[at]) ?? all[all.length - 1];
    path.push(turn);
    at = turn.id;
  }
  return path;
}

/** The turns from the first to this one. @param {Conversation} conversation @param {string | null} id @returns {Turn[]} */
export function pathTo(conversation, id) {
  const known = new Map(conversation.turns.map((turn) => [turn.id, turn]));
  const path = [];
  for (let turn = known.get(id ?? ""); turn; turn = known.get(turn.parent ?? "")) path.push(turn);
  return path.reverse();
}

/** @param {Conversation} conversation @returns {Map<string, Turn[]>} */
function childrenByParent(conversation) {
  /** @type {Map<string, Turn[]>} */
  const children = new Map();
  for (const turn of conversation.turns) {
    const key = turn.parent ?? ROOT;
    const list = children.get(key);
    if (list) list.push(turn);
    else children.set(key, [turn]);
  }
  return children;
}

/** The versions of a turn, itself among them. @param {Conversation} conversation @param {Turn} turn @returns {Turn[]} */
export function versionsOf(conversation, turn) {
  return conversation.turns.filter((one) => one.parent === turn.parent);
}

/** Shows this version; what follows it comes with it. @param {Conversation} conversation @param {Turn} turn */
export function select(conversation, turn) {
  conversation.selected[turn.parent ?? ROOT] = turn.id;
}

/** Calls at the end of a path that have no result yet. @param {Turn[]} path @returns {import("./types.mjs").ToolCall[]} */
export function openCalls(path) {
  const last = path.at(-1);
  return last?.role === "assistant" && last.status === "done" ? last.calls : [];
}

/** @param {string} text @returns {string} */
export function titleOf(text) {
  const line = text.trim().split("\n", 1)[0].replace(/\s+/g, " ");
  const letters = Array.from(line);
  if (letters.length <= 48) return line || "New conversation";
  const cut = letters.slice(0, 48).join("");
  return `${cut.slice(0, Math.max(24, cut.lastIndexOf(" ")))}…`;
}
