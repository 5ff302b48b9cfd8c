// Requests to the server that the page came from. A key stays in this tab.

const KEY = "immich-ml-cn key";
let askForKey = async () => null;

export class Refused extends Error {}

export function onKeyWanted(ask) {
  askForKey = ask;
}

export async function send(path, options = {}) {
  for (let asked = false; ; asked = true) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...(key ? { "x-api-key": key } : {}), ...(options.headers || {}) };
    const response = await fetch(path, { ...options, headers, cache: "no-store", redirect: "error" });
    if (response.status !== 401) return response;
    const given = await askForKey(asked || key !== null);
    sessionStorage.setItem(KEY, given);
  }
}

export async function read(response) {
  const body = await response.json().catch(() => null);
  if (!response.ok) throw new Refused((body && body.detail) || `HTTP ${response.status}`);
  return body;
}

export async function get(path) {
  return read(await send(path));
}

export async function post(path, body) {
  const headers = { "content-type": "application/json" };
  return read(await send(path, { method: "POST", headers, body: JSON.stringify(body) }));
}

// Asks for tasks as Immich does; the answer, and how many milliseconds it took.
export async function predict(entries, { image = null, text = null }) {
  const form = new FormData();
  form.append("entries", JSON.stringify(entries));
  if (image) form.append("image", image, "photo");
  else form.append("text", text);
  const started = performance.now();
  const answer = await read(await send("predict", { method: "POST", body: form }));
  return { answer, milliseconds: performance.now() - started };
}
