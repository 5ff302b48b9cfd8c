// "Now": the device, the models and their state, the last hour, the last errors. Asked for while somebody looks.

import { byId, drawing, element, pairs, say } from "./dom.js";
import { get, post, Refused } from "./server.js";
import { duration, megabytes, onLanguage, word } from "./texts.js";

const PAUSE_MS = 2000;
const HEIGHT = 40;
let timer = null;
let latest = null;
const beingFetched = new Set();

export function start() {
  onLanguage(() => latest && show(latest));
  document.addEventListener("visibilitychange", opened);
}

export function opened() {
  if (timer === null) look();
}

async function look() {
  if (byId("now").hidden || document.hidden) {
    timer = null;
    return;
  }
  try {
    latest = await get("status");
    show(latest);
    say("now-trouble", "");
  } catch (error) {
    say("now-trouble", error instanceof Refused ? error.message : word("unreachable"));
  }
  timer = setTimeout(look, PAUSE_MS);
}

function show(status) {
  byId("tab-again").hidden = !status.immich;
  byId("summary").textContent = `${status.device} · ${status.version}`;
  showDevice(status);
  showModels(status.models);
  showHour(status.lastHour || [], status.models);
  showErrors(status.lastErrors);
}

function showDevice(status) {
  const runtime = Object.entries(status.runtime).map(([name, version]) => `${name} ${version}`);
  byId("device").replaceChildren(
    ...pairs([
      [word("runsOn"), status.device],
      [word("why"), status.deviceReason],
      [word("version"), status.version],
      [word("runtime"), runtime.join(", ")],
      [word("uptime"), duration(status.uptimeSeconds)],
      [word("memory"), megabytes(status.residentBytes)],
    ]),
  );
}

function showModels(models) {
  const standIns = new Map(Object.entries(models).map(([name, model]) => [model.fallback, name]));
  const cards = Object.entries(models).map(([name, model]) => card(name, model, standIns.get(name)));
  byId("models").replaceChildren(...(cards.length ? cards : [element("li", { className: "quiet" }, word("noModels"))]));
}

function card(name, model, standsInFor) {
  const state = standsInFor ? "standin" : model.state;
  const line = (text) => element("p", { className: "quiet" }, text);
  const parts = [
    element("strong", {}, name),
    element("p", { className: `state ${state}` }, word(state)),
  ];
  if (standsInFor) parts.push(line(`${word("answersFor")} ${standsInFor}`));
  if (model.fallback) parts.push(line(`${word("answeredBy")} ${model.fallback}`));
  if (model.state === "loading") parts.push(...progress(model.progress));
  if (model.state === "ready") parts.push(line(readiness(model)));
  if (model.error) parts.push(element("p", { className: "failed" }, model.error));
  if (model.state === "failed") parts.push(line(`${word("tryAgainIn")} ${duration(model.retryInSeconds)}`));
  if (model.state === "failed") parts.push(fetchButton(name));
  return element("li", {}, ...parts);
}

function progress(message) {
  const bar = element("progress", {});
  bar.setAttribute("aria-label", word("loading"));
  return [bar, element("p", { className: "quiet" }, message)];
}

function readiness(model) {
  const facts = [megabytes(model.bytes)];
  if (model.leases) facts.push(word("inUse"));
  if (model.waiting) facts.push(`${model.waiting} ${word("waiting")}`);
  if (model.kept) facts.push(word("kept"));
  else if (model.secondsIdle > 5) facts.push(`${word("idleFor")} ${duration(model.secondsIdle)}`);
  return facts.join(" · ");
}

function fetchButton(name) {
  const isBusy = beingFetched.has(name);
  const button = element("button", { type: "button", disabled: isBusy }, word(isBusy ? "fetching" : "fetchNow"));
  button.addEventListener("click", async () => {
    beingFetched.add(name);
    show(latest);
    try {
      await post("models/load", { model: name });
    } catch (error) {
      say("now-trouble", error.message);
    }
    beingFetched.delete(name);
  });
  return button;
}

function showHour(minutes, models) {
  const photos = minutes.map((minute) => minute.photos);
  const queue = minutes.map((minute) => minute.queue);
  byId("chart").replaceChildren(chart(photos, queue));
  const waiting = Object.values(models).reduce((sum, model) => sum + (model.waiting || 0), 0);
  byId("figures").replaceChildren(
    ...pairs([
      [word("photosLastHour"), photos.reduce((sum, count) => sum + count, 0)],
      [word("photosLastMinute"), photos.at(-2) ?? 0],
      [word("longestQueue"), Math.max(0, ...queue)],
      [word("requestsWaiting"), waiting],
    ]),
  );
}

function chart(photos, queue) {
  const scale = (values) => HEIGHT / Math.max(1, ...values);
  const tall = scale(photos);
  const bars = photos.map((count, at) =>
    drawing("rect", { x: at + 0.1, y: HEIGHT - count * tall, width: 0.8, height: count * tall }),
  );
  const points = queue.map((length, at) => `${at + 0.5},${HEIGHT - length * scale(queue)}`).join(" ");
  const about = word("chartAbout");
  return drawing(
    "svg",
    { viewBox: `0 0 60 ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": about },
    ...bars,
    drawing("polyline", { points }),
  );
}

function showErrors(errors) {
  const lines = errors.map((error) =>
    element("li", {}, `${duration(error.secondsAgo)} ${word("ago")}\n${error.message}`),
  );
  byId("errors").replaceChildren(...(lines.length ? lines : [element("li", { className: "quiet" }, word("noErrors"))]));
}
