// Small texts kept by the browser. Where it forbids that, they last as long as the page.

/** @type {Map<string, string>} */
const here = new Map();

/** @param {"localStorage" | "sessionStorage"} area @param {string} name @returns {string | null} */
export function read(area, name) {
  try {
    return globalThis[area].getItem(name);
  } catch {
    return here.get(name) ?? null;
  }
}

/** null forgets. @param {"localStorage" | "sessionStorage"} area @param {string} name @param {string | null} text */
export function write(area, name, text) {
  try {
    if (text === null) globalThis[area].removeItem(name);
    else globalThis[area].setItem(name, text);
  } catch {
    if (text === null) here.delete(name);
    else here.set(name, text);
  }
}
