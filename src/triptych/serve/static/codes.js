// The tree of semantic IDs: the way to a prefix, and a card for each code that follows it, with the photos that stand for it.

import { byId, count, el, photo, plural } from "./dom.js";

const EAGER = 4;
const STRIP = 6; // photos beside each other, as the service gives them
const FEW = 4; // more leave no room for words
const ROOM = 4; // lines of words beside a photo

/** Show the way from the root to a prefix. @param {string|null} prefix codes with full stops between them, "" at the root. There, and of null, no way is shown. */
export function showCrumbs(prefix, { onwalk }) {
  byId("crumbs").hidden = !prefix;
  const codes = prefix ? prefix.split(".") : [];
  const crumb = (text, depth) => el("li", {}, depth === codes.length
    ? el("span", { "aria-current": "page" }, text)
    : link(codes.slice(0, depth).join("."), { onwalk }, text));
  byId("crumb-list").replaceChildren(...(prefix ? ["All IDs", ...codes].map(crumb) : []));
}

/** What the view of a prefix is called. */
export function heading(prefix) {
  return prefix === "" ? "Semantic IDs" : `Items under ${prefix}`;
}

/** How many there are, in a line. */
export function summary({ prefix, levels, num_codes: codes, num_items: number, num_branches: branches }, ms) {
  const time = ms === null ? "" : ` · ${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  const items = plural(number, "item", "items");
  if (prefix.length === levels) return `${items}, the nearest to their centre first${time}`;
  const empty = codes > branches ? ` (${count(codes - branches)} stand for no item)` : "";
  return `${items}, ${count(branches)} of ${count(codes)} codes at level ${prefix.length + 1} of ${levels}${empty}${time}`;
}

/** Fill the list of what follows a prefix; cards that are there already stay. */
export function render({ prefix, num_items: all, branches }, { onwalk, keepFirst = 0 }) {
  const list = byId("branches");
  const before = prefix.map((code) => `${code}.`).join("");
  const cards = branches.slice(keepFirst).map((branch, index) => card(branch, { before, all, onwalk, eager: keepFirst + index < EAGER }));
  if (keepFirst === 0) list.replaceChildren(...cards);
  else list.append(...cards);
  list.hidden = branches.length === 0;
}

/** Grey cards while the answer is on its way. */
export function renderSkeletons(number) {
  const one = () => el("li", { class: "branch skeleton", "aria-hidden": "true" },
    el("div", { class: "line short" }), el("div", { class: "strip" }, ...Array.from({ length: 6 }, () => el("span", { class: "tile" }))), el("div", { class: "line half" }));
  byId("branches").replaceChildren(...Array.from({ length: number }, one));
  byId("branches").hidden = false;
}

export function clear() {
  byId("branches").replaceChildren();
  byId("branches").hidden = true;
}

/** A link to a prefix: a click walks there, and with a key held down it opens elsewhere, as links do. */
export function link(prefix, { onwalk, ...properties }, ...children) {
  return el("a", { href: `?codes=${prefix}`, ...properties, onclick: (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    onwalk(prefix);
  } }, ...children);
}

function card({ code, num_items: number, hits }, { before, all, onwalk, eager }) {
  const meter = el("span", { class: "meter", "aria-hidden": "true" }, el("span"));
  meter.firstChild.style.width = `${(number / all) * 100}%`;
  const first = hits[0]?.item;
  const names = hits.length > 0 && hits.length <= FEW; // the titles of few items stand beside their photos
  return el("li", { class: "branch" }, link(`${before}${code}`, { onwalk },
    el("span", { class: "branch-head" },
      el("span", { class: "branch-code" }, before, el("b", {}, String(code))),
      el("span", { class: "branch-count" }, `${plural(number, "item", "items")} · ${share(number / all)}`)),
    el("span", { class: "strip", "aria-hidden": "true" }, ...hits.map(({ item }) => el("span", { class: "tile" }, photo(item, { eager }))),
      names ? titles(hits) : null),
    meter,
    names ? el("span", { class: "visually-hidden" }, titlesOf(hits).join(", ")) : first ? el("span", { class: "branch-such", dir: "auto" }, `${number === 1 ? "" : "such as "}${first.title || first.item_id}`) : null));
}

const titlesOf = (hits) => hits.map(({ item }) => item.title || item.item_id);

/** What few items are called, in the room that their photos leave. */
function titles(hits) {
  const column = el("span", { class: "branch-names" }, ...titlesOf(hits).map((title) => el("span", { dir: "auto" }, title)));
  column.style.gridColumn = `span ${STRIP - hits.length}`;
  column.style.setProperty("--lines", Math.max(1, Math.floor(ROOM / hits.length)));
  return column;
}

const share = (rate) => (rate < 0.001 ? "< 0.1 %" : `${(100 * rate).toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 })} %`);
