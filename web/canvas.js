// A text with blanks, as the page a sampler starts from: microdlm/canvas.py, for characters.

const BLANK = /_+|\{(\d+)\}/g; // ____ is four blanks, and so is {4}

/** Something the person at the keyboard can put right; the message is one line. */
export class UserError extends Error {}

/** One entry a character, null for a blank. UserError: a character the model does not know, or more than `window`. */
export function canvas(text, alphabet, window) {
  const page = [];
  let at = 0;
  for (const blank of text.matchAll(BLANK)) {
    const many = blank[1] === undefined ? blank[0].length : Number(blank[1]);
    page.push(...known(text.slice(at, blank.index), alphabet, at));
    page.push(...Array(Math.min(many, window + 1)).fill(null));
    at = blank.index + blank[0].length;
  }
  page.push(...known(text.slice(at), alphabet, at));
  if (page.length > window) throw new UserError(`The text is longer than the model's window of ${window} characters: shorten it.`);
  return page;
}

function known(text, alphabet, offset) {
  const characters = [...text];
  const stranger = characters.findIndex((c) => !alphabet.includes(c));
  if (stranger < 0) return characters;
  const what = `“${characters[stranger]}” at position ${offset + stranger}`;
  throw new UserError(`The models were trained on ${alphabet.length} characters, and ${what} is not one of them: replace it.`);
}

/** The page to start from: a text with blanks as it is; one without, as the prompt of `length` characters. */
export function startingPage(text, length, alphabet, window) {
  const page = canvas(text, alphabet, window);
  if (page.includes(null)) return page;
  if (page.length >= length) throw new UserError(`The prompt has ${page.length} characters and the text only ${length}: leave room to write.`);
  return [...page, ...Array(length - page.length).fill(null)];
}

/** What `canvas` would read as this page: the inverse. Runs of more than eight blanks are written {n}. */
export function asText(page) {
  const text = page.map((token) => token ?? "_").join("");
  return text.replace(/_{9,}/g, (run) => `{${run.length}}`);
}
