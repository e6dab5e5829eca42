// The page. What is asked is in its address, so that links and the back button hold it.

import { MOST_RESULTS, Query, labelOf, pictureOf } from "./query.js";
import { Results } from "./results.js";

const byId = (id) => document.getElementById(id);
const words = byId("words");

let gallery = { rows: 0, content: "images", pictures: false, queries: [], examples: [],
  samples: [] };
let query = Query.of(location.search);
let running = null; // the search that is under way

const add = (hit, sign) => ask(read().with({ kind: "like", sign, value: hit.id }));
const results = new Results(byId("results"), byId("viewer"), {
  like: (hit) => ask(Query.like(hit.id)),
  add: (hit) => add(hit, 1),
  subtract: (hit) => add(hit, -1),
});

function takes(kind) {
  return gallery.queries.includes(kind);
}

// Puts a query into the address, and searches for it.
function ask(next) {
  query = next.withoutEmptyParts();
  const isSame = query.address() === location.pathname + location.search;
  history[isSame ? "replaceState" : "pushState"](null, "", query.address());
  show();
  scrollTo(0, 0);
  return search();
}

// Returns the query with what is written in the form.
function read() {
  const inputs = [...byId("parts").children].map((item) => item.querySelector("input"));
  return query.written(words.value, inputs.map((input) => input?.value));
}

// Shows the query in the form.
function show() {
  words.value = query.words;
  byId("parts").replaceChildren(...query.parts.map(partItem));
  byId("sums").hidden = !takes("sum") || query.isEmpty;
  document.title = query.isEmpty ? "Search" : `${query.name} – Search`;
}

function partItem(part, index) {
  const isLess = part.sign < 0;
  const item = document.createElement("li");
  item.className = isLess ? "part less" : "part";
  const flip = button(isLess ? "−" : "+", () => ask(read().flipped(index)));
  flip.className = "sign";
  flip.ariaLabel = `${isLess ? "Add" : "Subtract"} instead: ${labelOf(part)}`;
  const remove = button("×", () => {
    ask(read().without(index));
    words.focus();
  });
  remove.ariaLabel = `Remove: ${labelOf(part)}`;
  item.append(flip, ...partContent(part), remove);
  return item;
}

function partContent(part) {
  if (part.kind === "text") {
    const input = document.createElement("input");
    input.value = part.value;
    input.maxLength = words.maxLength;
    input.ariaLabel = part.sign < 0 ? "Words to subtract" : "Words to add";
    return [input];
  }
  const label = document.createElement("span");
  label.textContent = labelOf(part);
  const source = part.kind === "photo" || gallery.pictures ? pictureOf(part) : null;
  if (!source) return [label];
  const image = document.createElement("img");
  image.src = source;
  image.alt = "";
  return [image, label];
}

function button(text, onclick) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.addEventListener("click", onclick);
  return made;
}

// Searches for the query; `isLonger` adds to the results that are shown.
async function search(isLonger = false) {
  running?.abort();
  for (const id of ["error", "warning", "more"]) byId(id).hidden = true;
  byId("start").hidden = !query.isEmpty;
  if (query.isEmpty) return showStart();
  if (query.lacksPhoto) return fail("A link cannot hold a photo: choose the photo again.");
  const own = (running = new AbortController());
  const slow = setTimeout(() => say("Searching…"), 400);
  wait(true);
  try {
    const response = await fetch(query.request(), { signal: own.signal });
    const answer = await response.json();
    if (response.ok) showAnswer(answer, isLonger);
    else fail(`This cannot be searched: ${answer.error}.`);
  } catch {
    if (own.signal.aborted) return; // a later search is under way
    fail("The server does not answer. Check that it is still running.");
  } finally {
    clearTimeout(slow);
    if (running === own) wait(false);
  }
}

function wait(isWaiting) {
  byId("results").classList.toggle("waiting", isWaiting);
  byId("results").ariaBusy = isWaiting;
}

function showAnswer(answer, isLonger) {
  const { hits, rows } = answer;
  if (isLonger) results.append(hits);
  else results.show(hits, { hasPictures: gallery.pictures, canSum: takes("sum") });
  const found = hits.length
    ? `The ${count(hits.length)} most similar of ${count(rows)}`
    : "Nothing is that similar";
  say(`${found} · ${count(Math.ceil(answer.milliseconds))} ms`);
  byId("more").hidden = hits.length < query.k || hits.length >= Math.min(rows, MOST_RESULTS);
  warn(answer);
}

function warn(answer) {
  const warnings = [];
  if (answer.unknown_words.length) warnings.push(warningOfWords(answer));
  if (answer.is_truncated) warnings.push("The text is too long: the model reads only its beginning.");
  byId("warning").textContent = warnings.join(" ");
  byId("warning").hidden = !warnings.length;
}

function warningOfWords({ unknown_words: unknown, has_known_words: known }) {
  const quoted = unknown.map((word) => `“${word}”`).join(", ");
  const isArbitrary = !known && query.isOnlyText;
  return isArbitrary
    ? `The model knows none of the words ${quoted}, so these results are arbitrary.`
    : `The model does not know ${quoted}.`;
}

function showStart() {
  const options = { hasPictures: gallery.pictures, canSum: takes("sum") };
  results.show(gallery.samples, options);
  wait(false);
  say("");
}

function say(text) {
  byId("status").textContent = text;
}

function fail(message) {
  results.show([], {});
  wait(false);
  say("");
  byId("error").hidden = false;
  byId("error").querySelector("p").textContent = message;
}

function searchPhoto(files) {
  if (!files.length) return;
  if (takes("photo")) ask(Query.photo(files[0]));
  else fail("This model cannot search by a photo.");
}

const count = (number) => number.toLocaleString("en");

async function describe() {
  try {
    gallery = await (await fetch("/gallery")).json();
  } catch {
    fail("The server does not answer. Check that it is still running.");
    return;
  }
  const things = `${count(gallery.rows)} ${gallery.content}`;
  const ways = [takes("text") && "by words", takes("photo") && "by a photo"];
  byId("start").querySelector("h2").textContent =
    `Search ${things} ${ways.filter(Boolean).join(" or ")}`;
  byId("hint").hidden = !takes("photo");
  byId("about").textContent = `${things}, model ${gallery.model}`;
  byId("choose").hidden = !takes("photo");
  words.disabled = !takes("text");
  byId("examples").replaceChildren(...(takes("text") ? gallery.examples.map(example) : []));
}

function example(text) {
  const item = document.createElement("li");
  const link = button(text, () => ask(Query.text(text)));
  link.className = "quiet";
  item.append(link);
  return item;
}

function addWords(sign) {
  query = read().with({ kind: "text", sign, value: "" });
  show();
  byId("parts").lastElementChild.querySelector("input").focus();
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask(read());
});
byId("home").addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return; // it opens elsewhere
  event.preventDefault();
  ask(Query.text(""));
  words.focus();
});
byId("plus").addEventListener("click", () => addWords(1));
byId("minus").addEventListener("click", () => addWords(-1));
byId("more").addEventListener("click", () => {
  query = query.longer();
  history.replaceState(null, "", query.address());
  search(true);
});
byId("again").addEventListener("click", () => search());

byId("choose").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", (event) => {
  searchPhoto([...event.target.files]);
  event.target.value = ""; // so that the same photo can be chosen once more
});
document.addEventListener("paste", (event) => {
  if (!event.clipboardData.files.length) return;
  event.preventDefault();
  searchPhoto([...event.clipboardData.files]);
});

const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragover", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  byId("drop").hidden = false;
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) byId("drop").hidden = true; // it left the window
});
document.addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  byId("drop").hidden = true;
  searchPhoto([...event.dataTransfer.files]);
});

document.addEventListener("keydown", (event) => {
  const isElsewhere = event.target.closest("input, dialog");
  if (event.key !== "/" || isElsewhere || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  words.select();
});
addEventListener("popstate", () => {
  query = Query.of(location.search);
  byId("viewer").close();
  show();
  search();
});

await describe();
show();
await search();
if (query.isEmpty) words.focus();
