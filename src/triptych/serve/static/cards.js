// The grid: cards, skeletons, and moving between cards with the arrow keys.

import { byId, el, photo, price, score } from "./dom.js";

const EAGER = 8;

/** Fill the grid. @param {{hit: object, top: number}[]} hits in the order to show. */
export function render(hits, { top, onwhy, onsimilar, keepFirst = 0 }) {
  const grid = byId("results");
  const cards = hits.slice(keepFirst).map((hit, index) => card(hit, { top, onwhy, onsimilar, eager: keepFirst + index < EAGER }));
  if (keepFirst === 0) grid.replaceChildren(...cards);
  else {
    while (grid.children.length > keepFirst) grid.lastChild.remove();
    grid.append(...cards);
  }
  if (!grid.querySelector('.open[tabindex="0"]')) makeCurrent(grid.querySelector(".open"));
}

/** Grey cards while the answer is on its way. */
export function renderSkeletons(number) {
  const one = () => el("li", { class: "card skeleton", "aria-hidden": "true" },
    el("div", { class: "tile" }), el("div", { class: "line short" }), el("div", { class: "line" }), el("div", { class: "line half" }));
  byId("results").replaceChildren(...Array.from({ length: number }, one));
}

function card(hit, { top, onwhy, onsimilar, eager }) {
  const { item } = hit;
  const name = item.title || item.item_id;
  const meter = el("div", { class: "meter", "aria-hidden": "true" }, el("span"));
  meter.firstChild.style.width = `${Math.max(0, Math.min(1, top > 0 ? hit.score / top : 0)) * 100}%`;
  const node = el("li", { class: "card" },
    el("div", { class: "tile" }, photo(item, { eager })),
    meter,
    el("p", { class: "brand" }, item.brand || item.category || ""),
    el("h3", { class: "title", dir: "auto" }, name),
    el("p", { class: "facts" },
      item.price === null ? null : el("span", { class: "price" }, price(item.price)),
      el("span", { class: "score", title: "Score" }, el("span", { class: "visually-hidden" }, "score "), score(hit.score))),
    el("div", { class: "actions" },
      el("button", { class: "open", type: "button", tabindex: "-1", "aria-haspopup": "dialog", "aria-label": `Why this result: ${name}`,
        onclick: () => onwhy(hit), onfocus: (event) => makeCurrent(event.currentTarget) }, "Why this"),
      el("button", { class: "similar", type: "button", tabindex: "-1", "aria-label": `Similar to ${name}`, onclick: () => onsimilar(item),
        onfocus: (event) => makeCurrent(event.currentTarget.previousSibling) }, "Similar")));
  node.dataset.itemId = item.item_id;
  return node;
}

/** One card at a time is reached by the tab key, with both its buttons; the arrows choose which. */
function makeCurrent(button) {
  if (!button) return;
  for (const each of byId("results").querySelectorAll('.actions [tabindex="0"]')) each.tabIndex = -1;
  for (const each of button.parentElement.children) each.tabIndex = 0;
}

/** Move with the arrows, Home and End; the down arrow in the search field enters the grid. */
export function listenForArrows() {
  byId("results").addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const here = event.target.closest(".card");
    if (!here) return;
    const cards = [...byId("results").children];
    const target = neighbour(cards, cards.indexOf(here), event.key);
    if (target === null) return;
    event.preventDefault();
    if (target < 0) byId("q").focus();
    else focusCard(cards[target]);
  });
  byId("q").addEventListener("keydown", (event) => {
    const first = byId("results").querySelector(".open");
    if (event.key !== "ArrowDown" || !first) return;
    event.preventDefault();
    focusCard(first.closest(".card"));
  });
}

function focusCard(card) {
  card.querySelector(".open").focus({ preventScroll: true });
  card.scrollIntoView({ block: "nearest" });
}

/** The card that a key leads to: an index, -1 for the search field above the grid, null where the key is not ours. */
function neighbour(cards, index, pressed) {
  const columns = cards.findIndex((card) => card.offsetTop > cards[0].offsetTop);
  const width = columns < 0 ? cards.length : columns;
  const last = cards.length - 1;
  switch (pressed) {
    case "ArrowRight": return Math.min(index + 1, last);
    case "ArrowLeft": return Math.max(index - 1, 0);
    case "ArrowDown": return Math.min(index + width, last);
    case "ArrowUp": return index < width ? -1 : index - width;
    case "Home": return 0;
    case "End": return last;
    default: return null;
  }
}
