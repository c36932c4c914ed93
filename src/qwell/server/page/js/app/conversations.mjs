// The conversations of this browser: which there are and which is open; kept in its store, told to its
// other tabs. No DOM.

import { newConversation, shownPath } from "../chat/tree.mjs";
import { exportText, importText } from "../chat/transfer.mjs";
import { Runner } from "./runner.mjs";
import { noteRescue } from "./store.mjs";

/** @typedef {import("../chat/types.mjs").Turn} Turn */
/** @typedef {import("../chat/types.mjs").Conversation} Conversation */
/** @typedef {import("./store.mjs").Store} Store */

const SAVE_MS = 400;
const REMOTE_MS = 2500;

export class Conversations extends EventTarget {
  /** @type {Map<string, Conversation>} */
  conversations = new Map();
  /** @type {Conversation} */
  open = newConversation(Date.now());
  /** Conversations another tab writes, and when it last did. @type {Map<string, number>} */
  remote = new Map();
  /** @type {Map<string, ReturnType<typeof setTimeout>>} */
  #saving = new Map();
  /** Told to the store, not yet answered. @type {Map<string, Promise<void>>} */
  #unwritten = new Map();

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
    const save = this.store.save(conversation);
    this.#unwritten.set(conversation.id, save);
    const done = () => this.#unwritten.get(conversation.id) === save && this.#unwritten.delete(conversation.id);
    this.#kept(save.finally(done).then(() => this.tabs.postMessage({ saved: conversation.id })));
  }

  /** The page goes away: everything of which nothing says yet that it was written is noted at once. */
  leave() {
    const runs = [...this.runner.runs.values()];
    noteRescue(runs.map((run) => ({
      conversation: run.conversation.id,
      turns: run.turns.map((turn) => ({ ...turn, status: /** @type {const} */ ("interrupted"), logprobs: [] })),
    })));
    // One by one: a conversation there is no room for takes no other with it, and the database may have time.
    for (const id of new Set([...this.#saving.keys(), ...this.#unwritten.keys()])) {
      const whole = this.conversations.get(id);
      if (!whole) continue;
      if (!this.runner.runs.has(id)) noteRescue([{ conversation: id, turns: [], whole }]);
      this.store.save(whole).catch(() => {});
    }
  }

  /** @param {Promise<void>} done */
  #kept(done) {
    done.catch((error) => this.tell("fault", new Error(`This browser could not keep the conversation: ${error?.message ?? error}`)));
  }

  /** The open conversation has changed: kept and told at once. */
  changed() {
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
