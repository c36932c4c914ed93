// Short messages that come and go. Faults stay until they are closed.

import { byId, el, iconButton, textButton } from "./dom.mjs";

const STAYS_MS = 8000;

/** @param {string} text @param {{action?: string, onAction?: () => void, isFault?: boolean}} [how] */
export function toast(text, how = {}) {
  const box = el("div", { class: how.isFault ? "toast fault" : "toast", role: how.isFault ? "alert" : "status" }, el("p", { text }));
  const close = () => box.remove();
  if (how.action) box.append(textButton(how.action, () => { close(); how.onAction?.(); }));
  box.append(iconButton("close", "Close message", close));
  const place = byId("toasts");
  while (place.children.length > 2) place.firstElementChild?.remove();
  place.append(box);
  if (!how.isFault) setTimeout(close, STAYS_MS);
}
