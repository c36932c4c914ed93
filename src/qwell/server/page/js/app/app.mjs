// What the page knows and what may be done with it. Views listen for events and call methods; no DOM.
//
// Events: "list" (conversations or the open one), "turns" (which turns are shown), "turn" (one turn's
// content), "run" (begun or ended), "settings", "model", "fault" (an Error to show).

import { chatBody } from "../chat/request.mjs";
import { SettingError } from "../chat/fields.mjs";
import { addTurn, newConversation, newSettings, openCalls, pathTo, select, shownPath, versionsOf } from "../chat/tree.mjs";
import { exportText, importText } from "../chat/transfer.mjs";
import { Runner } from "./runner.mjs";
import { noteRescue } from "./store.mjs";

/** @typedef {import("../chat/types.mjs").Turn} Turn */
/** @typedef {import("../chat/types.mjs").Conversation} Conversation */
/** @typedef {import("../chat/types.mjs").Settings} Settings */
/** @typedef {import("./store.mjs").Store} Store */

const SAVE_MS = 400;
const REMOTE_MS = 2500;

export class App extends EventTarget {
  /** @type {Map<string, Conversation>} */
  conversations = new Map();
  /** @type {Conversation} */
  open = newConversation(Date.now());
  /** @type {import("../net/api.mjs").Model | null} */
  model = null;
  /** Conversations another tab writes, and when it last did. @type {Map<string, number>} */
  remote = new Map();
  /** @type {Map<string, ReturnType<typeof setTimeout>>} */
  #saving = new Map();

  /** @param {Store} store */
  constructor(store) {
    super();
    this.store = store;
    this.runner = new Runner((run, isEnd) => this.#onRun(run, isEnd));
    this.tabs = new BroadcastChannel("qwell");
    this.tabs.onmessage = (message) => this.#onTab(message.data);
  }

  /** @param {string} name @param {unknown} [detail] */
  tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  async load() {
    for (const one of await this.store.load()) this.conversations.set(one.id, one);
    this.tell("list");
  }

  /** Newest first. @returns {Conversation[]} */
  sorted() {
    return [...this.conversations.values()].sort((a, b) => b.updated - a.updated);
  }

  /** @param {string | null} id null or unknown: a new one, kept as soon as something is in it */
  show(id) {
    this.open = this.conversations.get(id ?? "") ?? newConversation(Date.now());
    this.tell("list");
    this.tell("settings");
    this.tell("turns");
  }

  get path() {
    return shownPath(this.open);
  }

  get isRunning() {
    return this.runner.isRunning(this.open.id);
  }

  /** A turn whose writer is gone, though it was being written. @param {Turn} turn @returns {import("../chat/types.mjs").Status | "elsewhere"} */
  statusOf(turn) {
    if (turn.status !== "streaming" || this.runner.runs.get(this.open.id)?.turns.includes(turn)) return turn.status;
    return Date.now() - (this.remote.get(this.open.id) ?? 0) < REMOTE_MS ? "elsewhere" : "interrupted";
  }

  /** @param {string} text @returns {boolean} whether it was taken */
  send(text) {
    if (!text.trim() || this.isRunning) return false;
    const parent = this.path.at(-1)?.id ?? null;
    return this.#ask(() => addTurn(this.open, parent, { role: "user", content: text }, Date.now()).id);
  }

  /** Asks anew: another version of this reply. @param {Turn} turn */
  regenerate(turn) {
    return this.#ask(() => turn.parent);
  }

  /** A changed turn becomes a version of its own. A user's or a tool's is answered.
   * @param {Turn} turn @param {string} text */
  edit(turn, text) {
    if (this.isRunning) return false;
    if (turn.role === "assistant") {
      const { calls, model } = turn;
      addTurn(this.open, turn.parent, { role: "assistant", content: text, edited: true, calls, model }, Date.now());
      this.#changed();
      return true;
    }
    return this.#ask(() => this.#editedTail(turn, text));
  }

  /** The changed turn; results of other calls that stood behind it come along. @param {Turn} turn @param {string} text @returns {string} */
  #editedTail(turn, text) {
    const path = this.path;
    const behind = path.slice(path.indexOf(turn) + 1);
    const end = behind.findIndex((one) => one.role !== "tool");
    const { role, callId } = turn;
    let last = addTurn(this.open, turn.parent, { role, content: text, callId, edited: true }, Date.now());
    if (role === "tool") {
      for (const one of behind.slice(0, end < 0 ? undefined : end)) {
        last = addTurn(this.open, last.id, { role: "tool", content: one.content, callId: one.callId }, Date.now());
      }
    }
    return last.id;
  }

  /** Results of the open calls, in their order. @param {string[]} results */
  answerCalls(results) {
    const path = this.path;
    const calls = openCalls(path);
    if (this.isRunning || calls.length !== results.length) return false;
    return this.#ask(() => {
      let parent = /** @type {Turn} */ (path.at(-1)).id;
      results.forEach((content, i) => {
        parent = addTurn(this.open, parent, { role: "tool", content, callId: calls[i].id }, Date.now()).id;
      });
      return parent;
    });
  }

  /** Goes on with a reply that ended too early. @param {Turn} turn */
  goOn(turn) {
    if (this.isRunning) return false;
    const conversation = this.open;
    try {
      const hasText = turn.content !== "";
      const path = pathTo(conversation, hasText ? turn.id : turn.parent);
      const body = chatBody(conversation.settings, path, hasText);
      this.#start(conversation, [turn], body);
      return true;
    } catch (error) {
      return this.#refused(error);
    }
  }

  /** Answers the turn that `grow` gives the id of; what it grew is taken back if that cannot be asked.
   * @param {() => string | null} grow @returns {boolean} */
  #ask(grow) {
    if (this.isRunning) return false;
    const conversation = this.open;
    const before = { turns: [...conversation.turns], selected: { ...conversation.selected }, title: conversation.title };
    try {
      const parent = grow();
      const body = chatBody(conversation.settings, pathTo(conversation, parent), false);
      const count = typeof body.n === "number" ? body.n : 1;
      const now = Date.now(); // the same for all: so the choices of one request know each other
      const turns = Array.from({ length: count }, () => addTurn(conversation, parent, { role: "assistant" }, now));
      select(conversation, turns[0]);
      this.#start(conversation, turns, body);
      return true;
    } catch (error) {
      Object.assign(conversation, before);
      return this.#refused(error);
    }
  }

  /** @param {Conversation} conversation @param {Turn[]} turns @param {object} body */
  #start(conversation, turns, body) {
    this.conversations.set(conversation.id, conversation);
    const done = this.runner.run(conversation, turns, body);
    this.#changed();
    this.tell("run");
    return done;
  }

  /** @param {unknown} error */
  #refused(error) {
    if (!(error instanceof SettingError)) throw error;
    this.tell("fault", error);
    return false;
  }

  stop() {
    this.runner.stop(this.open.id);
  }

  /** @param {Turn} turn @param {-1 | 1} by */
  switchVersion(turn, by) {
    const all = versionsOf(this.open, turn);
    const next = all[all.indexOf(turn) + by];
    if (!next) return null;
    select(this.open, next);
    this.#changed();
    return next;
  }

  /** @param {Conversation} conversation @param {string} title */
  rename(conversation, title) {
    const shown = title.trim().slice(0, 200);
    if (!shown) return;
    Object.assign(conversation, { title: shown, isNamed: true });
    this.save(conversation);
    this.tell("list");
  }

  /** @param {Conversation} conversation @returns {() => void} brings it back */
  remove(conversation) {
    this.runner.stop(conversation.id);
    clearTimeout(this.#saving.get(conversation.id));
    this.conversations.delete(conversation.id);
    this.#kept(this.store.remove(conversation.id));
    this.tabs.postMessage({ removed: conversation.id });
    if (conversation === this.open) this.show(null);
    else this.tell("list");
    return () => {
      this.conversations.set(conversation.id, conversation);
      this.save(conversation);
      this.tell("list");
    };
  }

  /** @param {Partial<Settings>} parts */
  set(parts) {
    Object.assign(this.open.settings, parts);
    if (this.conversations.has(this.open.id)) this.save(this.open);
    this.tell("settings-changed");
  }

  resetSettings() {
    this.set(newSettings());
    this.tell("settings");
  }

  /** @param {Conversation[]} all @returns {string} */
  exported(all) {
    return exportText(all);
  }

  /** @param {string} text @returns {number} how many came. Throws ImportError, and then none came. */
  import(text) {
    const found = importText(text, new Set(this.conversations.keys()));
    for (const one of found) {
      this.conversations.set(one.id, one);
      this.save(one);
    }
    this.tell("list");
    return found.length;
  }

  /** Soon, and not for every token. @param {Conversation} conversation */
  save(conversation) {
    if (this.#saving.has(conversation.id)) return;
    this.#saving.set(conversation.id, setTimeout(() => this.#saveNow(conversation), SAVE_MS));
  }

  /** @param {Conversation} conversation */
  #saveNow(conversation) {
    clearTimeout(this.#saving.get(conversation.id));
    this.#saving.delete(conversation.id);
    if (!this.conversations.has(conversation.id)) return;
    this.#kept(this.store.save(conversation).then(() => this.tabs.postMessage({ saved: conversation.id })));
  }

  /** The page goes away: everything not yet written is noted at once. */
  leave() {
    const runs = [...this.runner.runs.values()];
    noteRescue(runs.map((run) => ({
      conversation: run.conversation.id,
      turns: run.turns.map((turn) => ({ ...turn, status: /** @type {const} */ ("interrupted"), logprobs: [] })),
    })));
    for (const id of this.#saving.keys()) {
      const conversation = this.conversations.get(id);
      if (conversation) this.store.save(conversation).catch(() => {});
    }
  }

  /** @param {Promise<void>} done */
  #kept(done) {
    done.catch((error) => this.tell("fault", new Error(`This browser could not keep the conversation: ${error?.message ?? error}`)));
  }

  #changed() {
    this.open.updated = Date.now();
    this.conversations.set(this.open.id, this.open);
    this.#saveNow(this.open);
    this.tell("list");
    this.tell("turns");
  }

  /** @param {import("./runner.mjs").Run} run @param {boolean} isEnd */
  #onRun(run, isEnd) {
    if (isEnd) this.#saveNow(run.conversation);
    else if (this.conversations.has(run.conversation.id)) this.save(run.conversation);
    if (run.conversation === this.open) for (const turn of run.turns) this.tell("turn", turn);
    if (!isEnd) return;
    this.tell("run", run);
    this.tell("list");
    if (run.conversation === this.open) this.tell("turns");
  }

  /** @param {{saved?: string, removed?: string}} message */
  async #onTab({ saved, removed }) {
    const id = saved ?? removed ?? "";
    if (this.runner.isRunning(id)) return;
    if (removed) this.conversations.delete(id);
    const found = saved ? await this.store.get(id) : undefined;
    if (found) {
      this.conversations.set(id, found);
      if (found.turns.some((turn) => turn.status === "streaming")) this.remote.set(id, Date.now());
    }
    this.tell("list");
    if (this.open.id !== id || !found) return;
    this.open = found;
    this.tell("turns");
    if (this.remote.has(id)) setTimeout(() => this.tell("turns"), REMOTE_MS + 100);
  }
}

export { openCalls, versionsOf };
