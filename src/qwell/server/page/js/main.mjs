// Puts the parts together and starts them.

import { App } from "./app/app.mjs";
import { Store } from "./app/store.mjs";
import { SettingError } from "./chat/fields.mjs";
import { fetchModel, isReady, ServerError } from "./net/api.mjs";
import { Composer } from "./view/composer.mjs";
import { askForKey, setUpDialogs, showShortcuts } from "./view/dialogs.mjs";
import { byId, el, shown } from "./view/dom.mjs";
import { Frame } from "./view/frame.mjs";
import { setUpKeys } from "./view/keys.mjs";
import { Panel } from "./view/panel.mjs";
import { Sidebar } from "./view/sidebar.mjs";
import { setUpTheme } from "./view/theme.mjs";
import { Thread } from "./view/thread.mjs";
import { toast } from "./view/toasts.mjs";

const AGAIN_MS = 3000;

async function start() {
  const store = await Store.open();
  const app = new App(store);
  const frame = new Frame();
  const composer = new Composer(app, () => frame.toggle("panel", true));
  const thread = new Thread(app, (text) => { composer.put(text); composer.focus(); }, askForKey);
  const panel = new Panel(app, askForKey);
  const go = (/** @type {string | null} */ id) => route(app, frame, composer, id);
  const sidebar = new Sidebar(app, go);
  setUpTheme();
  setUpDialogs(() => connect(app));
  setUpKeys({ app, thread, composer, frame, go });
  byId("help").addEventListener("click", showShortcuts);
  byId("skip").addEventListener("click", (event) => { event.preventDefault(); composer.focus(); });
  byId("title").addEventListener("click", () => {
    if (!app.conversations.has(app.open.id)) return;
    frame.toggle("list", true);
    sidebar.rename(app.open);
  });
  app.addEventListener("fault", (event) => tellFault(/** @type {CustomEvent} */ (event).detail, frame, panel));
  app.addEventListener("run", (event) => {
    keepAddress(app);
    const { detail: run } = /** @type {CustomEvent} */ (event);
    if (run?.turns[0].fault?.status === 0) connect(app); // says so, and waits for the server
  });
  // A touch of the box would bring up a phone's keyboard.
  const toBox = () => matchMedia("(hover: none)").matches || composer.focus();
  app.addEventListener("edited", toBox);
  addEventListener("hashchange", () => app.open.id === fromAddress() || app.show(fromAddress()));
  addEventListener("pagehide", () => app.leave());
  await app.load();
  app.show(fromAddress());
  if (!store.isLasting) toast("This browser keeps nothing: conversations last until the tab is closed", { isFault: true });
  document.body.classList.add("is-ready");
  toBox();
  await connect(app);
}

/** @returns {string | null} */
function fromAddress() {
  return /^#\/c\/([0-9a-f]{8,64})$/.exec(location.hash)?.[1] ?? null;
}

/** @param {App} app @param {Frame} frame @param {Composer} composer @param {string | null} id */
function route(app, frame, composer, id) {
  history.pushState(null, "", id ? `#/c/${id}` : "#/");
  app.show(id);
  frame.closeDrawers();
  composer.focus();
}

/** A conversation gets its address when something is in it. @param {App} app */
function keepAddress(app) {
  const wanted = `#/c/${app.open.id}`;
  if (app.conversations.has(app.open.id) && location.hash !== wanted) history.replaceState(null, "", wanted);
}

/** @param {Error} error @param {Frame} frame @param {Panel} panel */
function tellFault(error, frame, panel) {
  toast(`${error.message}.`, { isFault: true });
  if (!(error instanceof SettingError)) return;
  frame.toggle("panel", true);
  panel.point(error);
}

/** Asks the server what it serves; asks again while it cannot be reached. @param {App} app */
async function connect(app) {
  const place = byId("model");
  try {
    app.model = await fetchModel();
    const context = el("span", { class: "context", text: ` · ${shown(app.model.context)} tokens` });
    place.replaceChildren(el("span", {}, app.model.id, context));
    place.className = "model is-there";
    app.tell("model");
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    place.className = "model is-away";
    if (error.fault.status === 401) {
      place.textContent = "needs a key";
      askForKey("This server needs a key. It is kept until this tab is closed, and sent to this server alone.");
    } else {
      place.textContent = error.fault.status ? `fault ${error.fault.status}` : "server not reached";
      if (!isWaiting) setTimeout(() => whenReady(() => connect(app)), AGAIN_MS);
      isWaiting = true;
    }
  }
}

let isWaiting = false;

/** @param {() => void} then */
async function whenReady(then) {
  if (await isReady()) {
    isWaiting = false;
    then();
  } else setTimeout(() => whenReady(then), AGAIN_MS);
}

start();
