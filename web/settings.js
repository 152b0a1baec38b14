// The knobs, their ranges, and the address that holds them, so that a link shows what was seen.

export const DEFAULTS = { prompt: "ROMEO:", sampler: "confidence", steps: 32, temperature: 0.8, length: 240, seed: 0, cache: true };

export const SAMPLERS = {
  confidence: "keeps its surest guesses at each pass, few at first. It prefers easy text.",
  ancestral: "reverses the noise: when each blank opens is left to chance. A step that opens none costs no pass.",
  threshold: "keeps every guess surer than 90 %, and always the surest: the text sets the pace.",
  remask: "like ancestral, but takes some of what it wrote back and writes it again.",
  left_to_right: "writes like a GPT, one character a pass, and still reads the whole page for each.",
};

/** Those whose number of passes the reader sets. */
export const PACED = new Set(["confidence", "ancestral", "remask"]);

const RANGES = { steps: [1, 256], temperature: [0, 1.5], length: [16, 1024], seed: [0, 2 ** 32 - 1] };

/** From "?steps=64&prompt=..": what is missing or out of range keeps its default. */
export function fromAddress(search) {
  const asked = new URLSearchParams(search);
  const settings = { ...DEFAULTS };
  for (const [name, [low, high]] of Object.entries(RANGES)) {
    const value = Number(asked.get(name));
    if (asked.get(name) && value >= low && value <= high) settings[name] = value;
  }
  if (asked.has("prompt")) settings.prompt = asked.get("prompt").slice(0, 2000);
  if (Object.hasOwn(SAMPLERS, asked.get("sampler") ?? "")) settings.sampler = asked.get("sampler");
  if (asked.has("cache")) settings.cache = asked.get("cache") !== "0";
  return settings;
}

/** The other way; what stands at its default is left out. */
export function toAddress(settings) {
  const different = Object.entries(settings).filter(([name, value]) => value !== DEFAULTS[name]);
  return new URLSearchParams(different.map(([name, value]) => [name, typeof value === "boolean" ? Number(value) : value])).toString();
}

/** Has the address anything to say? */
export function isShared(search) {
  return Object.keys(DEFAULTS).some((name) => new URLSearchParams(search).has(name));
}
