// One turn: its text as it grows, what can be done with it, and what is known about it.

import { openCalls, versionsOf } from "../app/app.mjs";
import { drawCall, drawResult, resultForm } from "./calls.mjs";
import { drawDetails } from "./details.mjs";
import { copyButton, el, fitHeight, iconButton, shown, textButton } from "./dom.mjs";
import { notesFor } from "./notes.mjs";
import { jsonBlock, Prose, typedText } from "./prose.mjs";

/** @typedef {import("../chat/types.mjs").Turn} Turn */
/** @typedef {import("../app/app.mjs").App} App */

const NAMES = { user: "You", assistant: "Reply", tool: "Tool result" };

export class Message {
  #prose = new Prose();
  #isEditing = false;
  #showsDetails = false;
  #frame = 0;

  /** @param {App} app @param {Turn} turn @param {() => void} enterKey */
  constructor(app, turn, enterKey) {
    this.app = app;
    this.turn = turn;
    this.enterKey = enterKey;
    this.heading = el("h2", { class: "sr-only", id: `name-${turn.id}` });
    this.body = el("div", { class: "body" });
    this.extra = el("div", { class: "extra" });
    this.footer = el("footer");
    this.element = el("article", { class: `turn ${turn.role}`, tabindex: "-1", "aria-labelledby": `name-${turn.id}`, "data-turn": turn.id }, this.heading, this.body, this.extra, this.footer);
  }

  get status() {
    return this.app.statusOf(this.turn);
  }

  get isStreaming() {
    return this.status === "streaming";
  }

  /** Everything anew; a text that only grew is not drawn twice. @param {number} place among the turns shown */
  update(place) {
    this.heading.textContent = `${NAMES[this.turn.role]}, message ${place + 1}`;
    this.element.classList.toggle("is-streaming", this.isStreaming || this.status === "elsewhere");
    this.element.setAttribute("aria-busy", String(this.isStreaming));
    if (this.#isEditing) return;
    this.drawBody();
    this.#drawExtra();
    this.#drawFooter();
  }

  /** At most once a frame, and less often where drawing takes long. */
  grow() {
    if (this.#frame) return;
    this.#frame = requestAnimationFrame(() => {
      const start = performance.now();
      this.drawBody();
      if (this.isStreaming) this.#drawProgress();
      const took = performance.now() - start;
      setTimeout(() => (this.#frame = 0), took > 8 ? took * 3 : 0);
    });
  }

  drawBody() {
    const { turn } = this;
    if (turn.role === "user") this.body.replaceChildren(typedText(turn.content));
    else if (turn.role === "tool") this.body.replaceChildren(drawResult(this.#callName(), turn.content));
    else this.#drawReply();
  }

  #drawReply() {
    const { turn } = this;
    const json = this.#isJson() && !this.isStreaming ? jsonBlock(turn.content) : null;
    if (!json) this.#prose.update(turn.content);
    const waits = this.isStreaming && !turn.content && !turn.calls.length;
    const parts = [waits ? waiting() : (json ?? this.#prose.element), ...turn.calls.filter(Boolean).map(drawCall)];
    if (parts.length !== this.body.childNodes.length || parts.some((part, i) => part !== this.body.childNodes[i])) this.body.replaceChildren(...parts);
  }

  /** A reply that is one JSON value, as with a schema. */
  #isJson() {
    return /^\s*[{[]/.test(this.turn.content) && /[}\]]\s*$/.test(this.turn.content);
  }

  #callName() {
    const call = this.app.open.turns.flatMap((turn) => turn.calls).find((one) => one.id === this.turn.callId);
    return call?.name ?? "tool";
  }

  #drawExtra() {
    const { app, turn } = this;
    const parts = [];
    if (turn.role === "assistant" && !this.isStreaming) {
      parts.push(...notesFor(turn, this.status, {
        goOn: () => app.goOn(turn),
        again: () => app.regenerate(turn),
        enterKey: this.enterKey,
        canGoOn: app.open.settings.format === "text",
      }));
      if (app.path.at(-1) === turn && openCalls(app.path).length && !app.isRunning) {
        parts.push(resultForm(turn.calls, (results) => app.answerCalls(results)));
      }
      if (this.#showsDetails) parts.push(drawDetails(turn, this.#choice()));
    }
    this.extra.replaceChildren(...parts);
  }

  /** Which of the choices of its request the turn is. */
  #choice() {
    const siblings = versionsOf(this.app.open, this.turn);
    const together = siblings.filter((one) => one.created === this.turn.created);
    return Math.max(0, together.indexOf(this.turn));
  }

  #drawFooter() {
    const { app, turn } = this;
    const parts = [this.#versions()];
    if (!this.isStreaming) {
      parts.push(copyButton("Copy", () => turn.content, { "data-act": "copy" }));
      const canEdit = turn.role !== "assistant" || turn.calls.length === 0;
      if (canEdit) parts.push(iconButton("edit", "Edit", () => this.edit(), { "data-act": "edit", disabled: app.isRunning }));
      if (turn.role === "assistant") {
        parts.push(iconButton("again", "Ask again", () => app.regenerate(turn), { "data-act": "again", disabled: app.isRunning }));
        parts.push(this.#detailsButton());
      }
    }
    this.meta = turn.role === "assistant" ? el("span", { class: "meta", text: metaOf(turn) }) : null;
    this.footer.replaceChildren(...parts.filter((part) => part !== null), ...(this.meta ? [this.meta] : []));
  }

  #versions() {
    const all = versionsOf(this.app.open, this.turn);
    if (all.length < 2) return null;
    const at = all.indexOf(this.turn);
    const go = (/** @type {-1 | 1} */ by) => this.app.switchVersion(this.turn, by);
    return el(
      "span",
      { class: "versions", role: "group", "aria-label": "Versions" },
      iconButton("left", "Previous version", () => go(-1), { "data-act": "previous", disabled: at === 0 || this.app.isRunning }),
      el("span", { text: `${at + 1} / ${all.length}` }),
      iconButton("right", "Next version", () => go(1), { "data-act": "next", disabled: at === all.length - 1 || this.app.isRunning }),
    );
  }

  #detailsButton() {
    return iconButton("info", "Details", () => {
      this.#showsDetails = !this.#showsDetails;
      this.#drawExtra();
      this.#drawFooter();
      this.act("details")?.focus();
    }, { "data-act": "details", "aria-expanded": String(this.#showsDetails) });
  }

  /** @param {string} name @returns {HTMLButtonElement | null} */
  act(name) {
    return this.footer.querySelector(`[data-act=${name}]`);
  }

  #drawProgress() {
    const { speed } = this.turn;
    if (!this.meta || !speed) return;
    const seconds = (speed.lastMs - speed.firstMs) / 1000;
    // A piece is nearly always one token; the exact count comes with the end.
    const rate = seconds > 0.3 ? ` · ${shown((speed.pieces - 1) / seconds)} tokens/s` : "";
    this.meta.textContent = `about ${shown(speed.pieces)} tokens${rate}`;
  }

  edit() {
    const { app, turn } = this;
    if (app.isRunning || this.#isEditing) return;
    this.#isEditing = true;
    const isAnswered = turn.role !== "assistant";
    const area = el("textarea", { class: turn.role === "tool" ? "mono" : null, "aria-label": `Edit ${NAMES[turn.role].toLowerCase()}`, on: { input: () => fitHeight(area), keydown: (/** @type {KeyboardEvent} */ event) => key(event) } });
    area.value = turn.content;
    const done = () => {
      this.#isEditing = false;
      app.tell("turns");
    };
    const save = () => {
      this.#isEditing = false;
      if (app.edit(turn, area.value)) app.tell("edited");
      else this.#isEditing = true;
    };
    const key = (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        done();
        this.act("edit")?.focus();
      } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save();
    };
    const hint = isAnswered ? "The old version stays; you can switch between them." : "Your wording becomes a version of its own.";
    const row = el("div", { class: "row" }, el("span", { class: "quiet", text: hint }), textButton("Cancel", done), textButton(isAnswered ? "Send" : "Keep", save, { class: "button primary" }));
    this.body.replaceChildren(el("div", { class: "editor" }, area, row));
    this.footer.replaceChildren();
    fitHeight(area);
    area.focus();
  }
}

function waiting() {
  return el("p", { class: "waiting" }, el("span", { class: "sr-only", text: "Reading the prompt" }), el("i"), el("i"), el("i"));
}

/** @param {Turn} turn */
export function metaOf(turn) {
  const parts = [];
  if (turn.edited) parts.push("edited by you");
  const { usage, speed } = turn;
  if (usage) parts.push(usage.isRest ? `${shown(usage.reply)} tokens more` : `${shown(usage.reply)} ${usage.reply === 1 ? "token" : "tokens"}`);
  if (usage && speed && usage.reply > 1 && speed.lastMs > speed.firstMs) {
    const rate = ((usage.reply - 1) * 1000) / (speed.lastMs - speed.firstMs);
    parts.push(`${shown(rate, rate < 100 ? 1 : 0)} tokens/s`);
  }
  if (!usage && speed && turn.status !== "done") parts.push(`about ${shown(speed.pieces)} tokens`);
  if (speed) parts.push(`first after ${shown(speed.firstMs / 1000, 2)} s`);
  if (usage) parts.push(`prompt ${shown(usage.prompt)}${usage.cached ? `, ${shown(usage.cached)} cached` : ""}`);
  return parts.join(" · ");
}
