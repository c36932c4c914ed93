// Conversations in this browser: IndexedDB, and a note in localStorage of what was being written when
// the page went away, since a database has no time to answer then.

import { read, write } from "../net/kept.mjs";

/** @typedef {import("../chat/types.mjs").Conversation} Conversation */
/** @typedef {import("../chat/types.mjs").Turn} Turn */
/** @typedef {{conversation: string, turns: Turn[], whole?: Conversation}} Rescue whole: nothing said yet that it was written */

const [DATABASE, TABLE, RESCUE] = ["qwell", "conversations", "qwell.rescue"];

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function answered(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Keeps conversations; where a browser forbids that, `isLasting` is false and it forgets. */
export class Store {
  /** @param {IDBDatabase | null} database */
  constructor(database) {
    this.database = database;
    this.isLasting = database !== null;
  }

  /** @returns {Promise<Store>} */
  static async open() {
    try {
      const request = indexedDB.open(DATABASE, 1);
      request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
      const database = await answered(request);
      database.onversionchange = () => database.close();
      return new Store(database);
    } catch {
      return new Store(null);
    }
  }

  /** @returns {Promise<Conversation[]>} with what a page that went away had noted */
  async load() {
    if (!this.database) return [];
    const all = await answered(this.#table("readonly").getAll());
    for (const rescue of takeRescue()) {
      const at = all.findIndex((one) => one.id === rescue.conversation);
      if (rescue.whole && !(all[at]?.updated > rescue.whole.updated)) {
        all.splice(at < 0 ? all.length : at, 1, rescue.whole);
        await this.save(rescue.whole);
      }
      const found = all.find((one) => one.id === rescue.conversation);
      if (found) await this.#mend(found, rescue.turns);
    }
    return all;
  }

  /** @param {Conversation} conversation @param {Turn[]} turns */
  async #mend(conversation, turns) {
    for (const turn of turns) {
      const at = conversation.turns.findIndex((one) => one.id === turn.id);
      if (at < 0) conversation.turns.push(turn);
      else if (conversation.turns[at].status === "streaming") conversation.turns[at] = turn;
    }
    await this.save(conversation);
  }

  /** @param {string} id @returns {Promise<Conversation | undefined>} */
  async get(id) {
    return this.database ? answered(this.#table("readonly").get(id)) : undefined;
  }

  /** @param {Conversation} conversation */
  async save(conversation) {
    if (this.database) await answered(this.#table("readwrite").put(conversation));
  }

  /** @param {string} id */
  async remove(id) {
    if (this.database) await answered(this.#table("readwrite").delete(id));
  }

  /** @param {IDBTransactionMode} mode */
  #table(mode) {
    return /** @type {IDBDatabase} */ (this.database).transaction(TABLE, mode).objectStore(TABLE);
  }
}

/** Notes what is being written, at once. @param {Rescue[]} rescues */
export function noteRescue(rescues) {
  // Where there is no room, the database has the reply as it was half a second ago.
  if (rescues.length) write("localStorage", RESCUE, JSON.stringify([...readRescue(), ...rescues]));
}

/** @returns {Rescue[]} */
function takeRescue() {
  const found = readRescue();
  write("localStorage", RESCUE, null);
  return found;
}

/** @returns {Rescue[]} */
function readRescue() {
  try {
    const found = JSON.parse(read("localStorage", RESCUE) ?? "[]");
    return Array.isArray(found) ? found : [];
  } catch {
    return [];
  }
}
