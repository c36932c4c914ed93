// JSON made readable by its white space alone: every name, number and escape stays as it was written.
// (Through JSON.parse and back, 12345678901234567890 would become another number.)

const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g;

/** @param {string} text @returns {string | null} null for a text that is no JSON */
export function prettyJson(text) {
  try {
    JSON.parse(text);
  } catch {
    return null;
  }
  let [out, depth, last] = ["", 0, ""];
  for (const [token] of text.matchAll(TOKEN)) {
    const closes = token === "}" || token === "]";
    const isEmpty = closes && (last === "{" || last === "[");
    if (closes) depth -= 1;
    const isNewLine = last === "," || (closes && !isEmpty) || ((last === "{" || last === "[") && !closes);
    out += (isNewLine ? `\n${"  ".repeat(depth)}` : last === ":" ? " " : "") + token;
    if (token === "{" || token === "[") depth += 1;
    last = token;
  }
  return out;
}
