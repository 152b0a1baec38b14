// Fetch the large files, once: what has a hash in its name is kept in the browser's cache for the next visit.

const CACHE = "microdlm";

/** The bytes of a gzipped file, unpacked. `arrived(n)` is told how many bytes came, whenever some do. */
export async function fetchUnpacked(url, arrived, signal) {
  const cache = globalThis.caches && (await caches.open(CACHE));
  const known = await cache?.match(url);
  const response = known ?? (await fetch(url, { signal }));
  if (!response.ok) throw new Error(`${url} cannot be fetched (${response.status})`);
  const parts = [];
  for await (const part of chunks(response.body)) {
    parts.push(part);
    arrived(part.length);
  }
  const packed = new Blob(parts);
  if (cache && !known) await cache.put(url, new Response(packed)).catch(() => {}); // a full disk is no reason to stop
  return unpack(packed);
}

async function* chunks(body) {
  const reader = body.getReader();
  for (let part; !(part = await reader.read()).done; ) yield part.value;
}

/** A server may have unpacked it on the way: gzip begins with 1f 8b. */
async function unpack(blob) {
  const [a, b] = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
  if (a !== 0x1f || b !== 0x8b) return blob.arrayBuffer();
  return new Response(blob.stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

/** Drop what an older version of the page has kept. */
export async function forgetAllBut(urls) {
  if (!globalThis.caches) return;
  const cache = await caches.open(CACHE);
  const wanted = new Set(urls.map((url) => new URL(url, location.href).href));
  for (const request of await cache.keys()) if (!wanted.has(request.url)) await cache.delete(request);
}

/** "3.7 MB". */
export function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
