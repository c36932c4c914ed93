// The turns shown, the first view of an empty conversation, and where the page scrolls.

import { announce, byId, el } from "./dom.mjs";
import { Message } from "./message.mjs";

/** @typedef {import("../app/app.mjs").App} App */
/** @typedef {import("../chat/types.mjs").Turn} Turn */

const NEAR = 80;
const STARTERS = [
  ["Explain", "Explain how a hash table resolves collisions, with a small example."],
  ["Write", "Write a Python function that merges two sorted lists, with tests."],
  ["Compare", "Compare TCP and UDP in a table of five rows."],
  ["Review", "Find the bug: for (int i = 0; i <= n; i++) sum += a[i];"],
];

export class Thread {
  /** @type {Map<string, Message>} */
  #messages = new Map();
  #conversation = "";
  #sticks = true;

  /** @param {App} app @param {(text: string) => void} suggest @param {() => void} enterKey */
  constructor(app, suggest, enterKey) {
    this.app = app;
    this.suggest = suggest;
    this.enterKey = enterKey;
    this.scroller = byId("scroller");
    this.list = byId("turns");
    this.jump = byId("jump");
    this.scroller.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    this.jump.addEventListener("click", () => this.toEnd("smooth"));
    app.addEventListener("turns", () => this.draw());
    app.addEventListener("model", () => this.draw());
    app.addEventListener("turn", (event) => this.#grow(/** @type {CustomEvent<Turn>} */ (event).detail));
    app.addEventListener("run", (event) => this.#onRun(/** @type {CustomEvent} */ (event).detail));
  }

  draw() {
    const { app } = this;
    const held = heldControl(this.list);
    const isOther = this.#conversation !== app.open.id;
    if (isOther) {
      this.#messages.clear();
      this.#conversation = app.open.id;
      this.#sticks = true;
    }
    const path = app.path;
    const messages = path.map((turn) => this.#messageOf(turn));
    messages.forEach((message, place) => message.update(place));
    const elements = messages.map((message) => message.element);
    if (elements.length !== this.list.children.length || elements.some((one, i) => one !== this.list.children[i])) this.list.replaceChildren(...elements);
    if (!path.length) this.list.replaceChildren(this.#welcome());
    document.body.classList.toggle("is-empty", !path.length);
    if (held) this.#giveBack(held, path);
    if (path.length && this.#sticks) this.toEnd();
    else if (!path.length && isOther) this.scroller.scrollTo({ top: 0 }); // it begins with its heading
    this.#onScroll(); // what is shown may be shorter than what was: then no event comes
  }

  /** @param {Turn} turn */
  #messageOf(turn) {
    let message = this.#messages.get(turn.id);
    if (!message || message.turn !== turn) {
      message = new Message(this.app, turn, this.enterKey);
      this.#messages.set(turn.id, message);
    }
    return message;
  }

  /** @param {Turn} turn */
  #grow(turn) {
    const message = this.#messages.get(turn.id);
    if (!message?.element.isConnected) return;
    message.grow();
    if (this.#sticks) requestAnimationFrame(() => this.toEnd());
  }

  /** @param {import("../app/runner.mjs").Run | null} run that has ended; none: one has begun */
  #onRun(run) {
    if (!run) {
      this.#sticks = true;
      this.toEnd();
      announce("The reply is being written");
    } else if (run.conversation === this.app.open) announce(said(run.turns[0]));
  }

  /** A control that had the focus is drawn anew: its like in the turn now at that place gets it.
   * @param {{place: number, act: string}} held @param {Turn[]} path */
  #giveBack(held, path) {
    const message = this.#messages.get(path[Math.min(held.place, path.length - 1)]?.id ?? "");
    if (held.act === "none") {
      message?.element.focus({ preventScroll: true });
      return;
    }
    const again = message?.act(held.act);
    const other = held.act === "next" ? message?.act("previous") : message?.act("next");
    if (again && !again.disabled) again.focus({ preventScroll: true });
    else if (other && !other.disabled) other.focus({ preventScroll: true });
    else message?.element.focus({ preventScroll: true });
  }

  /** @param {ScrollBehavior} [behavior] */
  toEnd(behavior = "auto") {
    this.scroller.scrollTo({ top: this.scroller.scrollHeight, behavior });
    this.#sticks = true;
  }

  #onScroll() {
    const left = this.scroller.scrollHeight - this.scroller.scrollTop - this.scroller.clientHeight;
    this.#sticks = left < NEAR;
    this.jump.hidden = this.#sticks || document.body.classList.contains("is-empty");
  }

  /** The message that has the focus, or holds what has it. @returns {Message | null} */
  focused() {
    const id = document.activeElement?.closest("[data-turn]")?.getAttribute("data-turn");
    return this.#messages.get(id ?? "") ?? null;
  }

  /** @param {Turn} turn */
  editTurn(turn) {
    this.#messages.get(turn.id)?.edit();
  }

  /** @param {-1 | 1} by */
  move(by) {
    const all = [...this.list.querySelectorAll("article")];
    const at = all.findIndex((one) => one.contains(document.activeElement));
    const next = at < 0 ? (by < 0 ? all.at(-1) : undefined) : all[at + by];
    next?.focus();
    next?.scrollIntoView({ block: "nearest" });
  }

  #welcome() {
    const promise = "What you write goes to this server and nowhere else. Conversations stay in this browser.";
    const starters = STARTERS.map(([name, text]) => el("li", {}, el("button", { type: "button", class: "starter", on: { click: () => this.suggest(text) } }, el("strong", { text: name }), el("span", { text }))));
    return el(
      "div",
      { class: "welcome" },
      el("h2", { text: "What shall we work on?" }),
      el("p", { class: "quiet", text: promise }),
      el("ul", { "aria-label": "Beginnings" }, ...starters),
    );
  }
}

/** @param {HTMLElement} list @returns {{place: number, act: string} | null} */
function heldControl(list) {
  const active = document.activeElement;
  const article = active?.closest("article");
  if (!active || !article || !list.contains(article)) return null;
  return { place: [...list.children].indexOf(article), act: active.getAttribute("data-act") ?? "none" };
}

const SAID = 600;

/** @param {Turn} turn */
function said(turn) {
  if (turn.fault) return `Fault: ${turn.fault.message}`;
  if (turn.status === "stopped") return "Stopped";
  const calls = turn.calls.length ? ` It calls ${turn.calls.map((call) => call.name).join(", ")}.` : "";
  const isLong = turn.content.length > SAID;
  return isLong ? `The reply is complete, ${turn.content.split(/\s+/).length} words.${calls}` : `The reply is complete. ${turn.content}${calls}`;
}
