// The panel of one item: what it is, and why it is where it is.

import { byId, el, photo, plural, price, score } from "./dom.js";
import * as api from "./api.js";
import * as codes from "./codes.js";

// Below this share of the score, hiding a side changes nothing worth telling.
const SMALL = 0.03;

/** Channels that are fused, as the filters call them. */
const CHANNELS = { recall: "Choices and meaning", dense: "Meaning", generative: "Codes", bm25: "Words", popularity: "Clicks", new: "New items" };

let pending = null;

/** Open the panel for an item. @param {object|null} hit its hit, null where it is not among the results. @param {string} channel what found the hits. */
export async function open(item, { state, channel, hit, photo: queryPhoto, hasCodes, onsimilar, onwalk, onitem }) {
  pending?.abort();
  pending = new AbortController();
  const { signal } = pending;
  const reason = el("section", { class: "reason", "aria-live": "polite" });
  byId("why-title").textContent = hit && hasReason(state) ? "Why this result" : "About this item";
  const path = hasCodes === false ? null : el("section", { class: "codes" });
  const parts = [about(item), reason, ...details(item), path,
    el("button", { class: "primary", type: "button", onclick: () => onsimilar(item) }, "Find similar items")];
  byId("why-body").replaceChildren(...parts.filter(Boolean));
  byId("why-body").scrollTop = 0;
  const dialog = byId("why");
  if (!dialog.open) dialog.showModal();
  await Promise.all([
    explain(reason, item, { state, channel, hit, queryPhoto, signal }),
    path && showCodes(path, item, { onitem, onwalk, signal }),
  ]);
}

export function close() {
  pending?.abort();
  if (byId("why").open) byId("why").close();
}

const hasReason = (state) => Boolean(state.q || state.photo || state.similar || state.codes);

async function explain(section, item, { state, channel, hit, queryPhoto, signal }) {
  const plain = (sentence) => section.replaceChildren(el("p", { class: "verdict" }, sentence));
  if (!state.q && !state.photo) {
    if (state.similar && hit) plain(`Its title and photo, read together, are close to those of the item you started from: similarity ${score(hit.score)}.`);
    else if (state.codes && hit) plain(`Its semantic ID is ${state.codes}, as that of all items here.`);
    else if (hit) plain("It is here because it was clicked often. Search for something to see what its title and its photo add.");
    return;
  }
  if (channel === "popularity") return plain("It is here because it was clicked often; what was asked plays no part.");
  section.setAttribute("aria-busy", "true");
  section.replaceChildren(el("div", { class: "line" }), el("div", { class: "line half" }), el("div", { class: "bars-wait" }));
  try {
    const { answer } = await api.why(state, item.item_id, { channel, photo: queryPhoto, signal });
    section.replaceChildren(...reasons(answer, { state, channel, hit }), ...ranked(answer));
    markWords(byId("why-body").querySelector(".title"), answer.shared_words);
  } catch (failure) {
    if (failure.name === "AbortError") return;
    section.replaceChildren(el("p", { class: "verdict" }, failure.message),
      el("button", { class: "quiet", type: "button", onclick: () => explain(section, item, { state, channel, hit, queryPhoto, signal }) }, "Try again"));
  } finally {
    section.removeAttribute("aria-busy");
  }
}

/** What the ranker made of it, in a line; nothing where none looked at it. */
function ranked({ ranked: placed }) {
  if (!placed) return [];
  const percent = (100 * placed.probability).toLocaleString("en", { maximumSignificantDigits: 2 });
  return [el("p", { class: "note" }, `Ranked by how likely it is to be chosen: ${percent} %. Before that it stood at place ${placed.place}.`)];
}

function reasons(why, { state, channel, hit }) {
  const words = why.shared_words.length
    ? el("p", { class: "words" }, el("span", { class: "label" }, "Shared words"), ...why.shared_words.flatMap((word) => [" ", el("mark", {}, word)]))
    : state.q ? el("p", { class: "words" }, el("span", { class: "label" }, "Shared words"), why.without_clicks === null && channel !== "hybrid" ? " none; it was found by meaning" : " none") : null;
  if (channel === "bm25") {
    return [el("p", { class: "verdict" }, "Its title contains words of the query."), words, el("p", { class: "note" }, `Word score ${score(hit?.score ?? why.score)}. Photos play no part in word search.`)];
  }
  if (channel === "generative") {
    const chance = (100 * Math.exp(why.score)).toLocaleString("en", { maximumSignificantDigits: 2 });
    return [el("p", { class: "verdict" }, "Its semantic ID is a likely answer to these words."), words,
      el("p", { class: "note" }, `The decoder gives that ID ${chance} % of all it could say. The codes stand for what title and photo say together.`)];
  }
  if (channel === "hybrid") {
    const places = Object.entries(why.found_by).map(([name, place]) => [el("dt", {}, CHANNELS[name] ?? name), el("dd", {}, `place ${place}`)]);
    return [el("p", { class: "verdict" }, places.length > 1 ? "Several ways of searching found it." : "One way of searching found it."),
      el("dl", { class: "details" }, ...places.flat()), words, el("p", { class: "note" }, "Places without filters; the list is made of all of them.")];
  }
  const sides = [
    { name: "Title", kind: "of-title", adds: why.without_title === null ? null : why.unmasked - why.without_title },
    { name: "Photo", kind: "of-photo", adds: why.without_photo === null ? null : why.unmasked - why.without_photo },
  ];
  const clicks = why.without_clicks === null ? null : why.unmasked - why.without_clicks;
  const told = "How much the score falls when the model is shown the item without its title, or without its photo";
  if (clicks !== null) sides.push({ name: "Choices", kind: "of-choices", adds: clicks });
  return [
    el("p", { class: "verdict" }, verdict(why.unmasked, sides[0].adds, sides[1].adds, clicks)),
    bars(why.score, sides),
    words,
    kept(why.required),
    el("p", { class: "note" }, `${told}${clicks === null ? "" : ", or without what past choices have taught of it"}. These need not add up: each can cover for the others.`),
  ];
}

/** What the answer was cut down to. */
function kept(required) {
  if (required === null) return null;
  return el("p", { class: "words" }, el("span", { class: "label" }, `Only of ${required.attribute}`), ` ${required.values.join(", ")}`);
}

function verdict(total, title, image, clicks) {
  if (clicks !== null && clicks > Math.abs(total) * SMALL && clicks > 1.5 * Math.max(title ?? 0, image ?? 0)) return "Mostly by what was chosen before.";
  if (image === null) return "By its title; the photo plays no part.";
  if (title === null) return "By its photo; the title plays no part.";
  const small = Math.abs(total) * SMALL;
  if (title <= small && image <= small) return "Title and photo say the same: either would be enough alone.";
  if (image <= small) return "By its title; the photo adds little.";
  if (title <= small) return "By its photo; the title adds little.";
  if (title > 1.5 * image) return "Mostly by its title.";
  if (image > 1.5 * title) return "Mostly by its photo.";
  return "By its title and its photo, about equally.";
}

/** Bars on one scale: the score, and what each side adds (to the left of zero where it takes away). */
function bars(total, sides) {
  const known = sides.filter((side) => side.adds !== null).map((side) => side.adds);
  const low = Math.min(0, total, ...known);
  const high = Math.max(0, total, ...known);
  const place = (value) => ((value - low) / (high - low || 1)) * 100;
  const row = (name, kind, value) => {
    const bar = el("span", { class: `bar-fill ${kind}${value < 0 ? " negative" : ""}` });
    bar.style.left = `${place(Math.min(0, value ?? 0))}%`;
    bar.style.width = `${Math.abs(place(value ?? 0) - place(0))}%`;
    const shown = value === null ? "–" : kind === "of-score" ? score(value) : `${value < 0 ? "−" : "+"}${score(Math.abs(value))}`;
    return [el("dt", {}, name), el("dd", {}, el("span", { class: "bar-track", "aria-hidden": "true" }, bar), el("span", { class: "bar-value" }, shown))];
  };
  return el("dl", { class: "bars" }, ...row("Score", "of-score", total), ...sides.flatMap((side) => row(side.name, side.kind, side.adds)));
}

/** What the sets of semantic IDs are of. */
const SETS = { item: "Title and photo", title: "Title", photo: "Photo" };

/** The item's semantic ID, of one set, and who shares how much of it. */
async function showCodes(section, item, { of = "item", onitem, onwalk, signal }) {
  try {
    const { answer } = await api.codes(item.item_id, { of, signal });
    const tile = ({ item: other }) => el("button", { class: "tile", type: "button", title: other.title || other.item_id,
      "aria-label": other.title || other.item_id, onclick: () => onitem(other.item_id) }, photo(other));
    const step = ({ codes_shared: shared, num_items: number, hits }) => [
      el("dt", {}, ...answer.codes.slice(0, shared).map((code) => el("code", {}, String(code))),
        el("span", {}, number === 0 ? "nobody else" : plural(number, "other", "others"))),
      el("dd", {}, ...hits.map(tile)),
    ];
    const choose = (name) => el("button", { class: "quiet", type: "button", "aria-pressed": String(name === of),
      onclick: async () => {
        await showCodes(section, item, { of: name, onitem, onwalk, signal });
        section.querySelector(`[data-set="${name}"]`)?.focus();
      }, "data-set": name }, SETS[name]);
    const parts = [el("h4", {}, "Semantic ID"),
      answer.sets.length > 1 ? el("p", { class: "code-sets", role: "group", "aria-label": "Of what" }, ...answer.sets.map(choose)) : null,
      answer.codes.length ? el("dl", {}, ...answer.steps.flatMap(step)) : el("p", { class: "note" }, `This item has no ${SETS[of].toLowerCase()}, so no ID of one.`),
      of !== "item" ? null : el("p", { class: "code-links" }, "All items under ", ...answer.codes.map((_, depth) => {
        const prefix = answer.codes.slice(0, depth + 1).join(".");
        return codes.link(prefix, { onwalk, "aria-label": `All items under ${prefix}` }, prefix);
      })),
      el("p", { class: "note" }, "The model's own shelves: what shares the first code is of one kind, each further code tells it apart more finely. Others are counted where they part from it.")];
    section.replaceChildren(...parts.filter(Boolean));
  } catch (failure) {
    if (failure.name !== "AbortError") section.remove(); // what it would have said is extra: the panel does without
  }
}

function about(item) {
  return el("section", { class: "about" },
    el("div", { class: "tile" }, photo(item, { eager: true })),
    el("div", {},
      item.brand ? el("p", { class: "brand" }, item.brand) : null,
      el("h3", { class: "title", dir: "auto" }, item.title || item.item_id),
      item.price === null ? null : el("p", { class: "price" }, price(item.price))));
}

function details(item) {
  const rows = [["Category", item.category], ["Sold by", item.merchant], ["Delivers to", item.cells.join(", ")],
    ...Object.entries(item.features).map(([name, value]) => [name.replaceAll("_", " "), Array.isArray(value) ? value.join(", ") : String(value)]),
    ["Item", item.item_id]].filter(([, value]) => value);
  return [el("h4", {}, "Details"), el("dl", { class: "details" }, ...rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", { dir: "auto" }, value)]))];
}

/** Mark words in a title, whole words only (in scripts without spaces, wherever they stand). */
function markWords(node, words) {
  if (!node || !words.length) return;
  const text = node.textContent;
  const escaped = words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).sort((a, b) => b.length - a.length);
  const spaced = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}]/u;
  const pattern = escaped.map((word) => (spaced.test(word) ? word : `(?<![\\p{L}\\p{N}])${word}(?![\\p{L}\\p{N}])`)).join("|");
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(new RegExp(pattern, "giu"))) {
    parts.push(text.slice(end, match.index), el("mark", {}, match[0]));
    end = match.index + match[0].length;
  }
  node.replaceChildren(...parts, text.slice(end));
}
