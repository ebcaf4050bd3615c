// What stands in the place of results: none found, something failed, a photo that is not here.

import { byId, el } from "./dom.js";
import { activeFilters, isWalking } from "./state.js";

let examples = [];
let unanswered = null; // what `nothing` was called with, while it is shown

/** Queries to offer when there is nothing else to show; they may arrive after the answer they stand beside. */
export function offer(queries) {
  examples = queries;
  if (unanswered) nothing(...unanswered);
}

export function clear() {
  unanswered = null;
  byId("message").hidden = true;
  byId("message").replaceChildren();
}

/** The search gave nothing. @param {string|null} note what the service says of it. */
export function nothing(state, { go, note }) {
  unanswered = [state, { go, note }];
  const active = activeFilters(state);
  const buttons = [];
  if (active.length) buttons.push(button("Clear the filters", () => go(Object.fromEntries(active.map((name) => [name, null]))), "primary"));
  if (state.channel === "bm25") buttons.push(button("Find by meaning instead", () => go({ channel: null }), active.length ? "quiet" : "primary"));
  const sentence = active.length
    ? "No item passes all the filters. Widen one of them, or clear them."
    : state.channel === "bm25" ? "No title contains these words. Searching by meaning also finds other wordings." : note ?? "Try other words, or a photo.";
  const rest = examples.length ? el("ul", { class: "examples-inline", "aria-label": "Example queries" }, ...examples.slice(0, 4).map((q) => el("li", {}, button(q, () => go({ q, similar: null }), "chip")))) : null;
  show("Nothing here", sentence, buttons, rest);
}

/** The search failed. */
export function failed(failure, state, { go, retry }) {
  unanswered = null;
  const titles = { 0: "No connection", 4: "That cannot be searched", 5: "Something broke" };
  const badPhoto = state.photo && Math.floor(failure.status / 100) === 4;
  const nowhere = isWalking(state) && Math.floor(failure.status / 100) === 4; // asking again would change nothing
  const first = badPhoto ? button("Choose another photo", () => byId("photo-file").click(), "primary")
    : nowhere && state.codes ? button("All semantic IDs", () => go({ codes: "" }), "primary")
    : nowhere ? null : button("Try again", retry, "primary");
  const buttons = first ? [first] : [];
  if (state.photo) buttons.push(button("Remove the photo", () => go({ photo: null }), "quiet"));
  if (state.q || state.similar || isWalking(state) || activeFilters(state).length) {
    buttons.push(button("Start over", () => go({ q: null, photo: null, similar: null, user: null, category: null, cell: null, min_price: null, max_price: null, channel: null, rank: null, sort: null }), first ? "quiet" : "primary"));
  }
  const broke = failure.status >= 500 && failure.requestId;
  const id = broke ? el("p", { class: "note" }, "Request ", el("code", {}, failure.requestId)) : null;
  if (isWalking(state)) titles[4] = "Not in the tree";
  show(titles[Math.floor(failure.status / 100)] ?? titles[5], failure.message, buttons, id, "alert");
}

/** The address names a photo that this tab does not have. */
export function photoMissing({ go }) {
  show("The photo stayed behind", "This address was made with a photo, and photos are never part of an address. Choose the photo again to repeat the search.",
    [button("Choose a photo", () => byId("photo-file").click(), "primary"), button("Go on without it", () => go({ photo: null }), "quiet")]);
}

function show(title, sentence, buttons, rest = null, role = null) {
  const place = byId("message");
  place.replaceChildren(el("div", { class: "message-art", "aria-hidden": "true" }, el("i"), el("i"), el("i")),
    el("h2", {}, title), el("p", {}, sentence), el("div", { class: "message-actions" }, ...buttons), ...(rest ? [rest] : []));
  if (role) place.setAttribute("role", role);
  else place.removeAttribute("role");
  place.hidden = false;
}

const button = (text, onclick, kind) => el("button", { type: "button", class: kind, onclick }, text);
