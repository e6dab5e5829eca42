// A query: words, and further parts that are added or subtracted.

export const PAGE_SIZE = 24;
export const MOST_RESULTS = 1000;
// Names of the parameters, as [kind of part, sign].
const PARAMETERS = {
  q: ["text", 1],
  minus: ["text", -1],
  like: ["like", 1],
  unlike: ["like", -1],
  photo: ["photo", 1],
  minus_photo: ["photo", -1],
};
const photos = new Map(); // photos of this visit by key, as an address cannot hold them

// A part is { kind: "text" | "like" | "photo", sign: 1 | -1, value }, where the value is
// words, an ID, or a key of `photos`. Queries are not changed: methods return new ones.
export class Query {
  constructor(words, parts = [], k = PAGE_SIZE, threshold = null) {
    Object.assign(this, { words, parts, k, threshold });
  }

  static text(words) {
    return new Query(words);
  }

  static like(id) {
    return new Query("", [{ kind: "like", sign: 1, value: id }]);
  }

  static photo(file) {
    const key = crypto.getRandomValues(new Uint32Array(2)).join("-");
    photos.set(key, { file, url: URL.createObjectURL(file) });
    return new Query("", [{ kind: "photo", sign: 1, value: key }]);
  }

  // Reads a query from what follows the "?" of an address.
  static of(address) {
    const parameters = new URLSearchParams(address);
    const parts = [];
    for (const [name, value] of parameters) {
      if (!Object.hasOwn(PARAMETERS, name)) continue;
      const [kind, sign] = PARAMETERS[name];
      parts.push({ kind, sign, value });
    }
    const first = parts.findIndex(({ kind, sign }) => kind === "text" && sign > 0);
    const words = first < 0 ? "" : parts.splice(first, 1)[0].value;
    const k = Math.min(Number(parameters.get("k")) || PAGE_SIZE, MOST_RESULTS);
    return new Query(words, parts, k, parameters.get("threshold"));
  }

  get isEmpty() {
    return !this.words.trim() && !this.parts.length;
  }

  get hasPhotos() {
    return this.parts.some(({ kind }) => kind === "photo");
  }

  // Whether a photo is gone, since the page was loaded anew.
  get lacksPhoto() {
    return this.parts.some(({ kind, value }) => kind === "photo" && !photos.has(value));
  }

  get isOnlyText() {
    return this.parts.every(({ kind }) => kind === "text");
  }

  get name() {
    const parts = this.parts.map((part) => `${part.sign < 0 ? "−" : "+"} ${labelOf(part)}`);
    return [this.words.trim(), ...parts].filter(Boolean).join(" ").replace(/^\+ /, "");
  }

  with(part) {
    return this.#replace({ parts: [...this.parts, part] });
  }

  without(index) {
    return this.#replace({ parts: this.parts.filter((_, other) => other !== index) });
  }

  flipped(index) {
    const flip = (part) => ({ ...part, sign: -part.sign });
    return this.#replace({
      parts: this.parts.map((part, other) => (other === index ? flip(part) : part)),
    });
  }

  // Takes what is written in the form; `values` has undefined for parts without words.
  written(words, values) {
    const parts = this.parts.map((part, i) => ({ ...part, value: values[i] ?? part.value }));
    return this.#replace({ words, parts });
  }

  withoutEmptyParts() {
    return this.#replace({ parts: this.parts.filter(({ value }) => value.trim()) });
  }

  longer() {
    return this.#replace({ k: Math.min(this.k + PAGE_SIZE, MOST_RESULTS) });
  }

  #replace(changes) {
    const { words, parts, k, threshold } = { ...this, k: PAGE_SIZE, ...changes };
    return new Query(words, parts, k, threshold);
  }

  address() {
    const parameters = this.#parameters();
    for (const part of this.parts) {
      if (part.kind === "photo") parameters.append(nameOf(part), part.value);
    }
    return parameters.size ? `/?${parameters}` : "/";
  }

  // Returns the request that searches for it.
  request() {
    const parameters = this.#parameters();
    parameters.set("k", this.k);
    if (!this.hasPhotos) return new Request(`/search?${parameters}`);
    const body = new FormData();
    for (const part of this.parts) {
      if (part.kind === "photo") body.append(nameOf(part), photos.get(part.value).file);
    }
    return new Request(`/search?${parameters}`, { method: "POST", body });
  }

  #parameters() {
    const parameters = new URLSearchParams();
    if (this.words.trim()) parameters.append("q", this.words);
    for (const part of this.parts) {
      if (part.kind !== "photo") parameters.append(nameOf(part), part.value);
    }
    if (this.k !== PAGE_SIZE) parameters.set("k", this.k);
    if (this.threshold !== null) parameters.set("threshold", this.threshold);
    return parameters;
  }
}

function nameOf({ kind, sign }) {
  return Object.keys(PARAMETERS).find(
    (name) => PARAMETERS[name][0] === kind && PARAMETERS[name][1] === sign,
  );
}

export function labelOf({ kind, value }) {
  if (kind === "text") return value;
  return kind === "like" ? `like ${value}` : (photos.get(value)?.file.name ?? "a photo");
}

// Returns the address of a part's picture; undefined if it has none.
export function pictureOf({ kind, value }) {
  return kind === "photo" ? photos.get(value)?.url : imageOf(value);
}

export function imageOf(id) {
  return `/image/${id.split("/").map(encodeURIComponent).join("/")}`;
}
