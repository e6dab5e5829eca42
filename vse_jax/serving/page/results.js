// The results as cards or lines, and one of them at its full size.

const LARGE = "?size=large";
const TINY = 160; // pixels of pictures that are enlarged without blurring

// Shows results in `list`, and one of them in the dialog `viewer`. `actions` has the
// functions `like`, `add` and `subtract`, which take a result.
export class Results {
  #hits = [];
  #options = {};
  #shown = 0; // index of the result in the viewer

  constructor(list, viewer, actions) {
    this.list = list;
    this.viewer = viewer;
    this.actions = actions;
    viewer.querySelector(".previous").addEventListener("click", () => this.#turn(-1));
    viewer.querySelector(".next").addEventListener("click", () => this.#turn(1));
    viewer.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") this.#turn(-1);
      if (event.key === "ArrowRight") this.#turn(1);
    });
    viewer.addEventListener("click", (event) => {
      if (event.target === viewer) viewer.close(); // beside its content
    });
  }

  // Options: `hasPictures`, and `canSum` if results can be parts of a query.
  show(hits, options) {
    this.#hits = hits;
    this.#options = options;
    this.list.classList.toggle("texts", !options.hasPictures);
    this.list.replaceChildren(...hits.map((hit, index) => this.#card(hit, index)));
  }

  // Adds the results that follow those that are shown, and moves the focus to them.
  append(hits) {
    const before = this.#hits.length;
    this.#hits = hits;
    const added = hits.slice(before).map((hit, i) => this.#card(hit, before + i));
    this.list.append(...added);
    added[0]?.querySelector("button")?.focus();
  }

  #card(hit, index) {
    const card = made("li", "card");
    if (this.#options.hasPictures) {
      const open = made("button", "picture");
      open.type = "button";
      open.append(picture(hit.image, captionOf(hit)));
      open.addEventListener("click", () => this.#open(index));
      card.append(open);
    }
    const text = made("div", "text");
    text.append(made("p", "caption", captionOf(hit)), meta(hit));
    card.append(text, this.#actionButtons(hit));
    return card;
  }

  #actionButtons(hit) {
    const box = made("div", "actions");
    if (!this.#options.canSum) return box;
    const act = (name) => () => {
      this.viewer.close();
      this.actions[name](hit);
    };
    const name = captionOf(hit);
    box.append(
      labeled("More like this", "", `More like this: ${name}`, act("like")),
      labeled("+", "sign", `Add to the query: ${name}`, act("add")),
      labeled("−", "sign less", `Subtract from the query: ${name}`, act("subtract")),
    );
    return box;
  }

  #open(index) {
    this.#shown = index;
    const hit = this.#hits[index];
    const old = this.viewer.querySelector("img");
    old.replaceWith(picture(hit.image + LARGE, captionOf(hit)));
    this.viewer.querySelector("h2").textContent = captionOf(hit);
    this.viewer
      .querySelector(".captions")
      .replaceChildren(...hit.captions.slice(1).map((text) => made("li", "", text)));
    this.viewer.querySelector(".meta").replaceWith(meta(hit));
    this.viewer.querySelector(".actions").replaceWith(this.#actionButtons(hit));
    this.viewer.querySelector(".previous").disabled = index === 0;
    this.viewer.querySelector(".next").disabled = index === this.#hits.length - 1;
    if (!this.viewer.open) this.viewer.showModal();
  }

  #turn(step) {
    const index = this.#shown + step;
    if (index >= 0 && index < this.#hits.length) this.#open(index);
  }
}

function captionOf(hit) {
  return hit.captions[0] ?? hit.id;
}

function picture(source, text) {
  const image = made("img");
  image.alt = text;
  image.loading = "lazy";
  image.draggable = false;
  image.addEventListener("load", () => {
    image.classList.toggle("tiny", image.naturalWidth < TINY);
  });
  image.src = source;
  return image;
}

function meta(hit) {
  const line = made("p", "meta");
  if (hit.score !== undefined) {
    const score = made("span", "score", hit.score.toFixed(3));
    score.title = "Similarity";
    score.setAttribute("aria-label", `Similarity ${hit.score.toFixed(3)}`);
    score.setAttribute("role", "img");
    line.append(score);
  }
  if (hit.captions.length) line.append(made("span", "id", hit.id));
  return line;
}

function labeled(text, style, label, onclick) {
  const button = made("button", style, text);
  button.type = "button";
  button.setAttribute("aria-label", label);
  button.title = label.split(":")[0];
  button.addEventListener("click", onclick);
  return button;
}

function made(tag, style = "", text = "") {
  const element = document.createElement(tag);
  if (style) element.className = style;
  element.textContent = text;
  return element;
}
