// What may be done in the open conversation. Views listen for events and call methods; no DOM.
//
// Events: "list" (conversations or the open one), "turns" (which turns are shown), "turn" (one turn's
// content), "run" (begun or ended), "settings", "model", "fault" (an Error to show).

import { chatBody } from "../chat/request.mjs";
import { SettingError } from "../chat/fields.mjs";
import { addTurn, newSettings, openCalls, pathTo, select, versionsOf } from "../chat/tree.mjs";
import { Conversations } from "./conversations.mjs";

/** @typedef {import("../chat/types.mjs").Turn} Turn */
/** @typedef {import("../chat/types.mjs").Conversation} Conversation */
/** @typedef {import("../chat/types.mjs").Settings} Settings */

export class App extends Conversations {
  /** @type {import("../net/api.mjs").Model | null} */
  model = null;

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
      this.changed();
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
    this.changed();
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
    this.changed();
    return next;
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
}

export { openCalls, versionsOf };
