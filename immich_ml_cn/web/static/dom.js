// Elements from data. Every text is set as text: nothing that a photo or a server says is ever read as markup.

export const byId = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function drawing(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// The rows of a <dl>.
export function pairs(rows) {
  return rows.flatMap(([term, value]) => [element("dt", {}, term), element("dd", {}, value)]);
}

// Shows a sentence in an element that is hidden while there is none.
export function say(id, sentence) {
  const place = byId(id);
  place.textContent = sentence || "";
  place.hidden = !sentence;
}

// Files that are dropped on an element or chosen by the inputs in it.
export function onFiles(place, receive) {
  for (const input of place.querySelectorAll("input[type=file]")) {
    input.addEventListener("change", () => {
      receive([...input.files]);
      input.value = "";
    });
  }
  place.addEventListener("dragover", (event) => {
    event.preventDefault();
    place.classList.add("over");
  });
  place.addEventListener("dragleave", () => place.classList.remove("over"));
  place.addEventListener("drop", (event) => {
    event.preventDefault();
    place.classList.remove("over");
    receive([...event.dataTransfer.files].filter((file) => file.type.startsWith("image/") || file.type === ""));
  });
}
