// Which addresses a link may have. Everything a model or a user wrote passes here.

const LONGEST = 2048;

/**
 * The address if it may be followed, else null. Only http, https and mailto are links: `javascript:`
 * and its disguises (case, tabs, entities) are none, and neither are `data:` and `file:`.
 * @param {string} text
 * @returns {string | null}
 */
export function safeUrl(text) {
  if (text.length > LONGEST || /[\u0000-\u0020\u007f-\u009f]/.test(text)) return null;
  if (/^mailto:[^\s@]+@[^\s@]+$/i.test(text)) return text;
  if (!/^https?:\/\/[^/]/i.test(text)) return null;
  try {
    const url = new URL(text);
    const isWeb = url.protocol === "http:" || url.protocol === "https:";
    // A name before the host ("https://bank.example@evil.example") is there to mislead.
    return isWeb && !url.username && !url.password ? url.href : null;
  } catch {
    return null;
  }
}
