// "Try a photo": boxes over it, text in reading order beside it, faces, the time of each part.

import { byId, drawing, element, onFiles, say } from "./dom.js";
import { preview } from "./pictures.js";
import { get, predict } from "./server.js";
import { onLanguage, word } from "./texts.js";

const MODELS = { ocr: "PP-OCRv6_small", faces: "buffalo_l", clip: "ViT-B-32__openai" };
const TASKS = {
  text: { task: "ocr", kind: "ocr" },
  faces: { task: "facial-recognition", kind: "faces" },
  clip: { task: "clip", kind: "clip" },
};
let shown = null;

export function start() {
  for (const [kind, name] of Object.entries(MODELS)) byId(`name-${kind}`).value = name;
  onFiles(byId("photo-drop"), ([file]) => file && look(file));
  onLanguage(() => shown && show(shown));
}

export function opened() {}

const asked = (kind) => byId(`name-${kind}`).value.trim();

// Each part is asked for alone, so that its time is its own.
function parts() {
  const ocr = { modelName: asked("ocr") };
  const faces = { modelName: asked("faces") };
  const wanted = {
    text: { ocr: { detection: { ...ocr, options: { minScore: 0.5, maxResolution: 736 } }, recognition: { ...ocr, options: { minScore: 0.8 } } } },
    faces: { "facial-recognition": { detection: { ...faces, options: { minScore: 0.7 } }, recognition: faces } },
    clip: { clip: { visual: { modelName: asked("clip") } } },
  };
  return Object.entries(wanted).filter(([part]) => byId(`want-${part}`).checked);
}

async function look(file) {
  say("photo-trouble", "");
  byId("photo-found").replaceChildren(element("p", { className: "quiet" }, word("working")));
  if (shown) URL.revokeObjectURL(shown.picture.url);
  const picture = await preview(file);
  shown = { picture, entries: Object.assign({}, ...parts().map(([, entries]) => entries)), results: {} };
  show(shown);
  for (const [part, entries] of parts()) {
    try {
      const result = await predict(entries, { image: picture.blob });
      shown.results[part] = { ...result, model: await answering(part) };
    } catch (error) {
      shown.results[part] = { error: error.message };
    }
    show(shown);
  }
}

// The model that was asked for, or the one that stands in for it.
async function answering(part) {
  const { task, kind } = TASKS[part];
  const name = asked(kind);
  const { models } = await get("status");
  const standsIn = Object.entries(models).find(([key, model]) => key.startsWith(`${task}/${name}/`) && model.fallback);
  return standsIn ? standsIn[1].fallback : name;
}

function show({ picture, entries, results }) {
  const overlay = drawing("svg", { "aria-hidden": "true" });
  byId("photo-view").replaceChildren(element("img", { src: picture.url, alt: "" }), overlay);
  const found = [];
  if (results.text) found.push(...textFound(results.text, overlay));
  if (results.faces) found.push(...facesFound(results.faces, overlay));
  if (results.clip) found.push(...embeddingFound(results.clip));
  byId("photo-found").replaceChildren(...found);
  byId("photo-curl").textContent = command(entries);
  byId("photo-curl-box").hidden = false;
}

function heading(name, { milliseconds, error, model }) {
  const parts = [element("h2", {}, word(name))];
  if (error) parts.push(element("p", { className: "trouble", role: "alert" }, error));
  else parts.push(element("p", { className: "quiet" }, `${Math.round(milliseconds)} ms · ${word("answeredBy")} ${model}`));
  return parts;
}

function textFound(result, overlay) {
  const parts = heading("text", result);
  if (result.error) return parts;
  const { text, box, textScore } = result.answer.ocr;
  if (!text.length) return [...parts, element("p", {}, word("noText"))];
  overlay.setAttribute("viewBox", "0 0 1 1");
  overlay.setAttribute("preserveAspectRatio", "none");
  const lines = text.map((line, at) => {
    const corners = [0, 2, 4, 6].map((offset) => `${box[at * 8 + offset]},${box[at * 8 + offset + 1]}`);
    const outline = drawing("polygon", { points: corners.join(" ") });
    overlay.append(outline);
    const row = element("li", { title: `${word("score")} ${textScore[at].toFixed(3)}` }, line);
    return linked(row, outline);
  });
  return [...parts, element("ol", { className: "lines", id: "text-lines" }, ...lines), copyButton(text)];
}

function facesFound(result, overlay) {
  const parts = heading("faces", result);
  if (result.error) return parts;
  const { "facial-recognition": faces, imageWidth: width, imageHeight: height } = result.answer;
  if (!faces.length) return [...parts, element("p", {}, word("noFaces"))];
  overlay.setAttribute("viewBox", "0 0 1 1");
  overlay.setAttribute("preserveAspectRatio", "none");
  const rows = faces.map(({ boundingBox: { x1, y1, x2, y2 }, score }, at) => {
    const corners = [[x1, y1], [x2, y1], [x2, y2], [x1, y2]].map(([x, y]) => `${x / width},${y / height}`);
    const outline = drawing("polygon", { points: corners.join(" "), class: "face" });
    overlay.append(outline);
    return linked(element("li", {}, `${word("face")} ${at + 1} · ${word("score")} ${score.toFixed(3)}`), outline);
  });
  return [...parts, element("ol", { className: "lines", id: "face-lines" }, ...rows)];
}

function embeddingFound(result) {
  const parts = heading("embedding", result);
  if (result.error) return parts;
  const vector = JSON.parse(result.answer.clip);
  const first = vector.slice(0, 6).map((value) => value.toFixed(4));
  return [...parts, element("p", {}, `${vector.length} ${word("numbers")}: ${first.join(", ")} …`)];
}

function linked(row, outline) {
  const light = (on) => [row, outline].forEach((each) => each.classList.toggle("lit", on));
  for (const each of [row, outline]) {
    each.addEventListener("mouseenter", () => light(true));
    each.addEventListener("mouseleave", () => light(false));
  }
  row.tabIndex = 0;
  row.addEventListener("focus", () => light(true));
  row.addEventListener("blur", () => light(false));
  return row;
}

function copyButton(text) {
  const button = element("button", { type: "button" }, word("copyAll"));
  button.addEventListener("click", async () => {
    await copy(text.join("\n"));
    button.textContent = word("copied");
  });
  return button;
}

// The clipboard is closed to pages that do not come over https or from this computer.
async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = element("textarea", { value: text });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function command(entries) {
  const address = new URL("predict", location.href.split("#")[0]).href;
  return `curl ${quoted(address)} \\\n  -F ${quoted(`entries=${JSON.stringify(entries)}`)} \\\n  -F image=@photo.jpg`;
}
