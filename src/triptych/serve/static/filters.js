// The filter form: a column beside the results on a wide window, a sheet on a narrow one.

import { amount, byId, count, el } from "./dom.js";
import { activeFilters } from "./state.js";

const SHOWN_CATEGORIES = 9;
const narrow = window.matchMedia("(max-width: 60rem)");

const NOTES = {
  best: "Title and photo by what they mean, and what was chosen under such words.",
  dense: "Title and photo together, by what they mean.",
  bm25: "Only titles that contain the words.",
  popularity: "What was clicked most, whatever was asked.",
  generative: "Items whose semantic IDs a decoder says, code by code.",
  hybrid: "Several of these at once, fused into one list.",
};

/** Prepare the form. @param {(change: object) => void} onchange gets the filters that were changed. */
export function listen(onchange) {
  const form = byId("filters");
  const sheet = byId("filter-sheet");
  const place = () => {
    (narrow.matches ? byId("filter-sheet-body") : byId("side")).append(form);
    if (!narrow.matches && sheet.open) sheet.close();
  };
  narrow.addEventListener("change", place);
  place();
  byId("open-filters").addEventListener("click", () => sheet.showModal());
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", () => {
    const change = read(form);
    if (change) onchange(change);
  });
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    onchange({ category: null, cell: null, min_price: null, max_price: null });
  });
  byId("all-categories").addEventListener("click", (event) => {
    const open = event.currentTarget.getAttribute("aria-expanded") !== "true";
    event.currentTarget.setAttribute("aria-expanded", open);
    byId("category-options").classList.toggle("all", open);
    label(event.currentTarget);
  });
}

/** What finds results where nothing was chosen: `best` where that is the recall model or the hybrid. */
let usual = "dense";

/** Fill the form with what the catalogue has. @param {string} searchChannel what answers words. @param {object} parts of the shop, by name. */
export function fill(facets, { searchChannel, parts }) {
  usual = searchChannel === "dense" ? "dense" : "best";
  byId("best-channel").hidden = usual !== "best";
  byId("hybrid-channel").hidden = !parts.hybrid || searchChannel === "hybrid";
  byId("generative-channel").hidden = !parts.generative;
  if (searchChannel === "hybrid") NOTES.best = NOTES.hybrid;
  const option = (value, name, number) => el("label", { class: "option" },
    el("input", { type: "radio", name: "category", value }), el("span", { class: "option-name" }, name), el("span", { class: "option-count" }, number));
  byId("category-options").replaceChildren(
    option("", "Everything", ""), ...facets.categories.map(({ name, count: number }) => option(name, name, count(number))));
  byId("category-group").hidden = facets.categories.length === 0;
  const more = byId("all-categories");
  more.hidden = facets.categories.length <= SHOWN_CATEGORIES;
  more.dataset.number = facets.categories.length;
  label(more);
  byId("cell").replaceChildren(el("option", { value: "" }, "Anywhere"), ...facets.cells.map(({ name }) => el("option", { value: name }, name)));
  byId("cell-group").hidden = facets.cells.length === 0;
  byId("price-group").hidden = facets.price === null;
  if (facets.price) {
    byId("min-price").placeholder = count(Math.floor(facets.price.low));
    byId("max-price").placeholder = count(Math.ceil(facets.price.high));
  }
}

/** Make the form, the chips and the badge show a state. */
export function show(state, { onchange, canChoose }) {
  const form = byId("filters");
  for (const radio of form.querySelectorAll("[name=category]")) {
    radio.checked = radio.value === (state.category ?? "");
    radio.closest(".option").classList.toggle("chosen", radio.checked);
  }
  form.elements.namedItem("cell").value = state.cell ?? "";
  form.elements.namedItem("min_price").value = state.min_price ?? "";
  form.elements.namedItem("max_price").value = state.max_price ?? "";
  const channel = state.channel ?? usual;
  for (const radio of form.querySelectorAll("[name=channel]")) radio.checked = radio.value === channel;
  byId("channel-group").hidden = !canChoose;
  byId("channel-note").textContent = NOTES[channel];
  priceError("");
  const active = activeFilters(state);
  byId("clear-filters").hidden = active.length === 0;
  byId("filter-count").hidden = active.length === 0;
  byId("filter-count").textContent = active.length;
  byId("open-filters").setAttribute("aria-label", active.length ? `Filters, ${active.length} active` : "Filters");
  const told = state.user ? ["user", ...active] : active;
  byId("chips").hidden = told.length === 0;
  byId("chips").replaceChildren(...told.map((name) => chip(name, state, onchange)));
}

function chip(name, state, onchange) {
  const text = { user: `Asked by ${state.user}`, category: state.category, cell: `Delivers to ${state.cell}`, min_price: `From ${amount(state.min_price ?? 0)}`, max_price: `Up to ${amount(state.max_price ?? 0)}` }[name];
  return el("li", {}, el("button", { class: "chip", type: "button", "aria-label": name === "user" ? `Ask as nobody, not as ${state.user}` : `Remove the filter: ${text}`, onclick: () => onchange({ [name]: null }) }, text, el("span", { "aria-hidden": "true" }, "×")));
}

function read(form) {
  const data = new FormData(form);
  const number = (name) => (data.get(name) === "" || data.get(name) === null ? null : Number(data.get(name)));
  const change = {
    category: data.get("category") || null, cell: data.get("cell") || null,
    min_price: number("min_price"), max_price: number("max_price"),
    channel: data.get("channel") === usual ? null : data.get("channel"),
  };
  const wrong = change.min_price !== null && change.max_price !== null && change.min_price > change.max_price;
  priceError(wrong ? "The lowest price is above the highest." : "");
  return wrong ? null : change;
}

function priceError(sentence) {
  byId("price-error").textContent = sentence;
  byId("price-error").hidden = !sentence;
  for (const id of ["min-price", "max-price"]) byId(id).setAttribute("aria-invalid", Boolean(sentence));
}

function label(button) {
  button.textContent = button.getAttribute("aria-expanded") === "true" ? "Fewer categories" : `All ${button.dataset.number} categories`;
}
