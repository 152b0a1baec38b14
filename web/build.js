// Put the runtime beside the page, under names that change when it does: node build.js
//
// From node_modules (npm ci, from the lock file) into vendor/. Binaries are gzipped here, since not every host does it.
// What results/web.json measured goes along. SITE_URL and REPOSITORY, if set, are written into index.html: an OpenGraph picture wants a whole address.

import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const FROM = new URL("node_modules/onnxruntime-web/dist/", import.meta.url);
const TO = new URL("vendor/", import.meta.url);
const MEASURED = new URL("../results/web.json", import.meta.url);
const PARTS = {
  wasm: ["ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"],
  webgpu: ["ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"],
};

function put(bytes, name) {
  const hash = createHash("sha256").update(bytes).digest("hex").slice(0, 12);
  const named = name.replace(".", `-${hash}.`);
  writeFileSync(new URL(named, TO), bytes);
  return named;
}

function runtime([module, binary]) {
  const script = readFileSync(new URL(module, FROM), "utf8").replace(/\n\/\/# sourceMappingURL=.*\s*$/, "\n"); // the map is not shipped
  const packed = gzipSync(readFileSync(new URL(binary, FROM)), { level: 9 });
  return { module: put(Buffer.from(script), module), binary: put(packed, `${binary}.gz`), bytes: packed.length };
}

function address(page) {
  const { SITE_URL, REPOSITORY } = process.env;
  if (SITE_URL) page = page.replace(/(property="og:image" content=")[^"]*/, `$1${SITE_URL.replace(/\/$/, "")}/og.png`);
  if (REPOSITORY) page = page.replace(/(name="repository" content=")[^"]*/, `$1${REPOSITORY}`);
  return page;
}

rmSync(TO, { recursive: true, force: true });
mkdirSync(TO);
const runtimes = Object.fromEntries(Object.entries(PARTS).map(([device, files]) => [device, runtime(files)]));
const { writing, browser, made_by } = existsSync(MEASURED) ? JSON.parse(readFileSync(MEASURED, "utf8")) : {};
const measured = writing && { writing, browser, device: made_by.device };
writeFileSync(new URL("runtimes.json", TO), JSON.stringify({ ...runtimes, measured }, null, 2) + "\n");
const index = new URL("index.html", import.meta.url);
const page = readFileSync(index, "utf8");
if (address(page) !== page) writeFileSync(index, address(page));
