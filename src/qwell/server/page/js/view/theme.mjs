// Dark, light, or as the system is. early.js has put the choice in place before the first paint.

import { write } from "../net/kept.mjs";
import { announce, byId, icon } from "./dom.mjs";

const KEY = "qwell.theme";
/** @type {Record<string, {next: string, icon: string, label: string}>} */
const THEMES = {
  auto: { next: "light", icon: "auto", label: "Colours: as the system" },
  light: { next: "dark", icon: "sun", label: "Colours: light" },
  dark: { next: "auto", icon: "moon", label: "Colours: dark" },
};

export function setUpTheme() {
  const button = byId("theme");
  const draw = () => {
    const now = THEMES[document.documentElement.dataset.theme ?? "auto"];
    button.replaceChildren(icon(now.icon));
    button.setAttribute("aria-label", now.label);
    button.title = now.label;
    return now;
  };
  button.addEventListener("click", () => {
    const { next } = draw();
    if (next === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    write("localStorage", KEY, next);
    announce(draw().label);
  });
  draw();
}
