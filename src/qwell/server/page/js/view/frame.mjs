// The two sides of the page: beside the text where there is room, drawers over it where there is not.

import { read, write } from "../net/kept.mjs";
import { byId } from "./dom.mjs";

const KEY = "qwell.sides";

export class Frame {
  constructor() {
    this.body = document.body;
    this.isNarrow = matchMedia("(max-width: 60rem)");
    const kept = read("localStorage", KEY) ?? "list";
    this.#put("list", !this.isNarrow.matches && kept.includes("list"));
    this.#put("panel", !this.isNarrow.matches && kept.includes("panel"));
    this.isNarrow.addEventListener("change", () => this.#fit());
    byId("open-list").addEventListener("click", () => this.toggle("list"));
    byId("close-list").addEventListener("click", () => this.toggle("list", false));
    byId("open-panel").addEventListener("click", () => this.toggle("panel"));
    byId("close-panel").addEventListener("click", () => this.toggle("panel", false));
    byId("shade").addEventListener("click", () => this.closeDrawers());
  }

  /** @param {"list" | "panel"} side */
  isOpen(side) {
    return this.body.classList.contains(`has-${side}`);
  }

  /** @param {"list" | "panel"} side @param {boolean} [open] */
  toggle(side, open = !this.isOpen(side)) {
    if (open && this.isNarrow.matches) this.#put(side === "list" ? "panel" : "list", false);
    this.#put(side, open);
    if (!this.isNarrow.matches) write("localStorage", KEY, ["list", "panel"].filter((one) => this.isOpen(/** @type {"list"} */ (one))).join(" "));
    byId(open ? `close-${side}` : `open-${side}`).focus();
  }

  /** @returns {boolean} whether one was open */
  closeDrawers() {
    if (!this.isNarrow.matches) return false;
    const side = this.isOpen("list") ? "list" : this.isOpen("panel") ? "panel" : null;
    if (side) this.toggle(side, false);
    return side !== null;
  }

  // The window became narrow or wide (a tablet was turned): sides that would cover the page close,
  // and what a drawer kept out of reach is there again, or nothing could be clicked any more.
  #fit() {
    for (const side of /** @type {const} */ (["list", "panel"])) {
      this.#put(side, !this.isNarrow.matches && this.isOpen(side));
    }
  }

  /** @param {"list" | "panel"} side @param {boolean} open */
  #put(side, open) {
    this.body.classList.toggle(`has-${side}`, open);
    byId(side).inert = !open; // out of the way of the keyboard too
    byId(`open-${side}`).setAttribute("aria-expanded", String(open));
    // A drawer lies over the page: what is under it is out of reach until it is closed.
    byId("main").inert = this.isNarrow.matches && (this.isOpen("list") || this.isOpen("panel"));
    byId("shade").hidden = !byId("main").inert;
  }
}
