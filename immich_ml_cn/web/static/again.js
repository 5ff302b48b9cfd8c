// "One photo again": text, embedding and faces of one of Immich's photos, made again by Immich.

import { byId, element, say } from "./dom.js";
import { read, send } from "./server.js";
import { word } from "./texts.js";

export function start() {
  byId("again-form").addEventListener("submit", (event) => {
    event.preventDefault();
    makeAgain().catch((error) => say("again-trouble", error.message));
  });
  byId("again-photo").addEventListener("change", preview);
}

export function opened() {}

// Immich's key is Immich's: it goes to the routes in front of it only, and is kept nowhere.
const credentials = () => (byId("again-key").value ? { "x-api-key": byId("again-key").value } : {});

async function preview() {
  byId("again-view").replaceChildren();
  const path = `again/preview?photo=${encodeURIComponent(byId("again-photo").value)}`;
  const response = await send(path, { headers: credentials() });
  if (!response.ok) return;
  const url = URL.createObjectURL(await response.blob());
  byId("again-view").replaceChildren(element("img", { src: url, alt: "" }));
}

async function makeAgain() {
  say("again-done", "");
  say("again-trouble", "");
  const chosen = [...byId("again-form").querySelectorAll("input[type=checkbox]:checked")].map((box) => box.name);
  const body = JSON.stringify({ photo: byId("again-photo").value, parts: chosen });
  const headers = { "content-type": "application/json", ...credentials() };
  const { jobs } = await read(await send("again", { method: "POST", headers, body }));
  say("again-done", word("againDone", { jobs }));
}
