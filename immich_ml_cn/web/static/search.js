// "Try a search": photos ranked by their similarity to words; and what the text index finds, where there is one.

import { byId, element, onFiles, say } from "./dom.js";
import { preview } from "./pictures.js";
import { get, predict } from "./server.js";
import { language, onLanguage, word } from "./texts.js";

const TIERS = { EXACT: "tierExact", ACROSS_LINES: "tierLines", MISREAD: "tierMisread" };
const photos = [];
let ranked = null;

export function start() {
  byId("search-form").addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
  onFiles(byId("search-drop"), add);
  onLanguage(() => ranked && show(ranked));
}

export function opened() {}

const model = () => byId("name-clip").value.trim();

async function add(files) {
  say("search-trouble", "");
  for (const file of files) {
    const picture = await preview(file);
    try {
      const { answer } = await predict({ clip: { visual: { modelName: model() } } }, { image: picture.blob });
      photos.push({ name: file.name, url: picture.url, vector: unit(JSON.parse(answer.clip)), model: model() });
    } catch (error) {
      say("search-trouble", error.message);
      return;
    }
    show(ranked || photos.map((photo) => ({ photo, similarity: null })));
  }
  await search();
}

async function search() {
  const words = byId("words").value.trim();
  if (!words) return;
  await Promise.all([rank(words), findText(words)]);
}

async function rank(words) {
  const mine = photos.filter((photo) => photo.model === model());
  if (!mine.length) return;
  const options = { language: language() === "zh" ? "zh-CN" : "en" };
  try {
    const { answer } = await predict({ clip: { textual: { modelName: model(), options } } }, { text: words });
    const query = unit(JSON.parse(answer.clip));
    ranked = mine.map((photo) => ({ photo, similarity: dot(photo.vector, query) }));
    ranked.sort((one, other) => other.similarity - one.similarity);
    show(ranked);
    say("search-trouble", "");
  } catch (error) {
    say("search-trouble", error.message);
  }
}

async function findText(words) {
  const found = await get(`search?query=${encodeURIComponent(words)}`).catch(() => null);
  byId("indexed").hidden = found === null;
  if (found === null) return;
  byId("indexed-about").textContent = found.total
    ? word("indexedAbout", { matches: found.total, photos: found.photos, milliseconds: Math.round(found.milliseconds) })
    : word("noMatch");
  byId("matches").replaceChildren(
    ...found.matches.map(({ text, tier, score }) =>
      element("li", {}, `${text}\n${word(TIERS[tier])} · ${word("score")} ${score.toFixed(2)}`),
    ),
  );
}

function show(rows) {
  const best = Math.max(0.01, ...rows.map(({ similarity }) => similarity || 0));
  byId("ranking").replaceChildren(
    ...rows.map(({ photo, similarity }) => {
      const bar = element("meter", { min: 0, max: best, value: Math.max(0, similarity || 0) });
      bar.setAttribute("aria-label", photo.name);
      const text = similarity === null ? photo.name : `${similarity.toFixed(4)} · ${photo.name}`;
      return element("li", {}, element("img", { src: photo.url, alt: "" }), element("div", {}, element("span", {}, text), bar));
    }),
  );
}

const dot = (one, other) => one.reduce((sum, value, at) => sum + value * other[at], 0);

function unit(vector) {
  const length = Math.sqrt(dot(vector, vector));
  return vector.map((value) => value / length);
}
