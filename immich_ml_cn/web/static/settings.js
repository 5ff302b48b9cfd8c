// "Settings in force": every variable, its value, where it came from.

import { byId, element, say } from "./dom.js";
import { get } from "./server.js";
import { onLanguage, word } from "./texts.js";

let rows = null;

export function start() {
  byId("settings-filter").addEventListener("input", show);
  onLanguage(show);
}

export async function opened() {
  try {
    rows = await get("settings");
    say("settings-trouble", "");
    show();
  } catch (error) {
    say("settings-trouble", error.message);
  }
}

function show() {
  if (rows === null) return;
  const wanted = byId("settings-filter").value.trim().toLowerCase();
  const matching = rows.filter(({ variable }) => variable.toLowerCase().includes(wanted));
  byId("settings-rows").replaceChildren(...matching.map(row));
}

function row({ variable, value, source, default: usual, meaning, near }) {
  const origin = {
    environment: () => word("environment"),
    default: () => word("byDefault"),
    unknown: () => (near ? word("unknownNear", { near }) : word("unknown")),
  }[source]();
  const className = { environment: "set", unknown: "unknown", default: "" }[source];
  const name = element("td", { title: meaning || "" }, element("code", {}, variable));
  const shown = value ?? (source === "unknown" ? "" : word("hidden"));
  const cells = [shown, origin, usual].map((text) => element("td", {}, text));
  return element("tr", { className }, name, ...cells);
}
