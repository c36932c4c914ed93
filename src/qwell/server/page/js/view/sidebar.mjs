// The conversations kept in this browser, and what can be done with them.

import { announce, byId, el, iconButton } from "./dom.mjs";
import { toast } from "./toasts.mjs";
import { LARGEST } from "../chat/transfer.mjs";

/** @typedef {import("../app/app.mjs").App} App */
/** @typedef {import("../chat/types.mjs").Conversation} Conversation */

const DAY = 86_400_000;
const SEARCH_FROM = 8;

export class Sidebar {
  /** @param {App} app @param {(id: string | null) => void} go */
  constructor(app, go) {
    this.app = app;
    this.go = go;
    this.list = byId("conversations");
    this.search = /** @type {HTMLInputElement} */ (byId("search"));
    this.file = /** @type {HTMLInputElement} */ (byId("file"));
    /** @type {string | null} */
    this.renaming = null;
    byId("new").addEventListener("click", () => go(null));
    byId("export").addEventListener("click", () => this.#exportAll());
    byId("import").addEventListener("click", () => this.file.click());
    this.file.addEventListener("change", () => this.#import());
    this.search.addEventListener("input", () => this.draw());
    app.addEventListener("list", () => this.draw());
  }

  draw() {
    const held = document.activeElement?.getAttribute("data-id");
    const all = this.app.sorted();
    byId("search-row").hidden = all.length < SEARCH_FROM && !this.search.value;
    const wanted = this.search.value.trim().toLowerCase();
    const found = wanted ? all.filter((one) => matches(one, wanted)) : all;
    const groups = Map.groupBy ? Map.groupBy(found, groupOf) : grouped(found);
    this.list.replaceChildren(...[...groups].map(([name, members]) => this.#group(name, members)));
    if (!found.length) this.list.append(el("p", { class: "quiet", text: wanted ? "Nothing found." : "No conversations yet." }));
    if (held) /** @type {HTMLElement | null} */ (this.list.querySelector(`[data-id="${held}"]`))?.focus();
    const { open } = this.app;
    /** @type {HTMLButtonElement} */ (byId("title")).disabled = !this.app.conversations.has(open.id);
    byId("title").textContent = this.app.conversations.has(open.id) ? open.title : "New conversation";
    document.title = this.app.conversations.has(open.id) ? `${open.title} · qwell` : "qwell";
  }

  /** @param {string} name @param {Conversation[]} members */
  #group(name, members) {
    const id = `group-${name.replace(/\W/g, "")}`;
    return el("section", { "aria-labelledby": id }, el("h2", { id, text: name }), el("ul", {}, ...members.map((one) => this.#item(one))));
  }

  /** @param {Conversation} one */
  #item(one) {
    const isOpen = one === this.app.open;
    if (this.renaming === one.id) return el("li", {}, this.#nameField(one));
    const link = el("a", { href: `#/c/${one.id}`, "data-id": one.id, "aria-current": isOpen ? "page" : null, title: one.title, dir: "auto", text: one.title });
    const busy = this.app.runner.isRunning(one.id) ? el("span", { class: "busy", role: "img", "aria-label": "A reply is being written" }) : null;
    const tools = el(
      "span",
      { class: "item-tools" },
      iconButton("edit", `Rename ${one.title}`, () => this.rename(one)),
      iconButton("export", `Export ${one.title}`, () => save(`${fileName(one.title)}.json`, this.app.exported([one]))),
      iconButton("trash", `Delete ${one.title}`, () => this.#delete(one)),
    );
    return el("li", { class: isOpen ? "is-open" : null }, link, busy, tools);
  }

  /** @param {Conversation} one */
  rename(one) {
    this.renaming = one.id;
    this.draw();
    const field = /** @type {HTMLInputElement | null} */ (this.list.querySelector("input"));
    field?.focus();
    field?.select();
  }

  /** @param {Conversation} one */
  #nameField(one) {
    const field = el("input", { class: "rename", "aria-label": "Name of the conversation", maxlength: "200" });
    field.value = one.title;
    const end = (/** @type {boolean} */ keep) => {
      if (this.renaming !== one.id) return;
      this.renaming = null;
      if (keep) this.app.rename(one, field.value);
      this.draw();
      /** @type {HTMLElement | null} */ (this.list.querySelector(`[data-id="${one.id}"]`))?.focus();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") event.stopPropagation();
      if (event.key === "Enter" || event.key === "Escape") end(event.key === "Enter");
    });
    field.addEventListener("blur", () => end(true));
    return field;
  }

  /** @param {Conversation} one */
  #delete(one) {
    const wasOpen = one === this.app.open;
    const undo = this.app.remove(one);
    if (wasOpen) this.go(null);
    byId("new").focus();
    toast(`“${one.title}” was deleted`, { action: "Undo", onAction: () => { undo(); this.go(one.id); } });
  }

  #exportAll() {
    const all = this.app.sorted();
    if (!all.length) {
      toast("There is nothing to export yet");
      return;
    }
    save(`qwell-${new Date().toISOString().slice(0, 10)}.json`, this.app.exported(all));
  }

  async #import() {
    const file = this.file.files?.[0];
    this.file.value = "";
    if (!file) return;
    try {
      const text = file.size > LARGEST ? " ".repeat(LARGEST + 1) : await file.text();
      const count = this.app.import(text);
      toast(`${count} ${count === 1 ? "conversation" : "conversations"} imported`);
    } catch (error) {
      const line = /** @type {Error} */ (error).message;
      toast(`Nothing was imported. ${line}.`, { isFault: true });
      announce(line);
    }
  }
}

/** @param {Conversation} one @param {string} wanted */
function matches(one, wanted) {
  return one.title.toLowerCase().includes(wanted) || one.turns.some((turn) => turn.content.toLowerCase().includes(wanted));
}

/** @param {Conversation} one */
function groupOf(one) {
  const today = new Date().setHours(0, 0, 0, 0);
  if (one.updated >= today) return "Today";
  if (one.updated >= today - DAY) return "Yesterday";
  return one.updated >= today - 7 * DAY ? "This week" : "Earlier";
}

/** Map.groupBy for browsers before 2024. @param {Conversation[]} all */
function grouped(all) {
  /** @type {Map<string, Conversation[]>} */
  const groups = new Map();
  for (const one of all) groups.set(groupOf(one), [...(groups.get(groupOf(one)) ?? []), one]);
  return groups;
}

/** @param {string} title */
function fileName(title) {
  return title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60) || "conversation";
}

/** @param {string} name @param {string} text */
function save(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const link = el("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
