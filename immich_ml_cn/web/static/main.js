// The page: its tabs, its language, and the key that a server may ask for. Each tab is a module of its own.

import { byId } from "./dom.js";
import { onKeyWanted } from "./server.js";
import { fill, speak } from "./texts.js";
import * as again from "./again.js";
import * as now from "./now.js";
import * as photo from "./photo.js";
import * as search from "./search.js";
import * as settings from "./settings.js";

const TABS = { now, photo, search, again, settings };

function open(name) {
  for (const each of Object.keys(TABS)) {
    const tab = byId(`tab-${each}`);
    tab.setAttribute("aria-selected", String(each === name));
    tab.tabIndex = each === name ? 0 : -1;
    byId(each).hidden = each !== name;
  }
  TABS[name].opened();
}

function moveFocus(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const tabs = Object.keys(TABS).map((name) => byId(`tab-${name}`)).filter((tab) => !tab.hidden);
  const next = tabs[(tabs.indexOf(event.target) + step + tabs.length) % tabs.length];
  next.focus();
  next.click();
}

function keyFromPerson(wasWrong) {
  const form = byId("key-form");
  form.hidden = false;
  byId("key-wrong").hidden = !wasWrong;
  byId("key").focus();
  return new Promise((resolve) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      form.hidden = true;
      resolve(byId("key").value);
      byId("key").value = "";
    };
  });
}

let asking = null;
onKeyWanted((wasWrong) => {
  asking ??= keyFromPerson(wasWrong).finally(() => (asking = null));
  return asking;
});

for (const button of document.querySelectorAll("[data-language]"))
  button.addEventListener("click", () => speak(button.dataset.language));
for (const name of Object.keys(TABS)) {
  byId(`tab-${name}`).addEventListener("click", () => history.replaceState(null, "", `#${name}`) ?? open(name));
  TABS[name].start();
}
document.querySelector("nav").addEventListener("keydown", moveFocus);
fill();
open(Object.hasOwn(TABS, location.hash.slice(1)) ? location.hash.slice(1) : "now");
