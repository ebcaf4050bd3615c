// The page: one state (in the address), one set of results, one panel. Everything a visitor does becomes a change of state.

import * as api from "./api.js";
import * as cards from "./cards.js";
import * as codes from "./codes.js";
import * as filters from "./filters.js";
import * as messages from "./messages.js";
import * as photos from "./photo.js";
import * as why from "./why.js";
import { byId, count, el, icon, learnPrices, photo as photoOf, plural } from "./dom.js";
import { address, asks, canRank, isStart, isWalking, key, maxShown, pageSize, parse } from "./state.js";

const SKELETON_AFTER_MS = 120;
const RETRY_AFTER_MS = 1000;
const REMEMBERED_ANSWERS = 30;
const NOTHING = parse("");

let state = parse(location.search);
let shown = { key: null, base: null, answer: null, hits: [] }; // base: the key without the number of results
let pending = new AbortController();
let leaving = null; // a step back that has been asked for and not been made yet
const answers = new Map(); // so that the back button is immediate and lands on the same scroll position
let ranker = null; // of a shop that has one: whether it orders what is found by words where nobody says, and by which channel; null: none, or not known yet
let hasCodes = null; // whether the shop has semantic IDs; null: not known yet
const items = new Map(); // items seen so far, for the chip of "similar" and for shared addresses of a panel

/** Change the state, and the address with it. What is asked for anew starts on its first page, with the panel closed. */
function go(change, { replace = false, panel = false } = {}) {
  if (leaving) return leaving.then(() => go(change, { replace, panel })); // else going back would undo this
  const next = { ...state, k: null, item: null, ...(asks(change) ? { codes: null } : {}), ...change };
  if (address(next) === address(state)) return update();
  state = next;
  history[replace ? "replaceState" : "pushState"]({ panel }, "", address(state));
  if (!panel && !replace && key(state) !== shown.key) window.scrollTo(0, 0);
  return update();
}

async function update() {
  showQuestion();
  if (key(state) !== shown.key || !shown.answer) await load();
  else showHits();
  await showPanel();
}

async function load({ again = false } = {}) {
  pending.abort();
  const mine = (pending = new AbortController());
  const wanted = key(state);
  const known = answers.get(wanted);
  if (known && !again) return showAnswer(wanted, known);
  const grid = byId("results");
  grid.setAttribute("aria-busy", "true");
  messages.clear();
  showNote(null);
  const more = shown.base === base(state) && shown.answer !== null && shows() > numberOf(shown.answer);
  byId("more").disabled = true;
  const skeletons = setTimeout(() => {
    if (more) return;
    if (isWalking(state)) codes.renderSkeletons(6);
    else codes.clear();
    cards.renderSkeletons(isWalking(state) ? 0 : isStart(state) ? 8 : 12);
    byId("status").textContent = "Searching…";
    byId("more").hidden = true;
  }, SKELETON_AFTER_MS);
  try {
    const photo = await queryPhoto();
    if (state.photo && !photo) return fail(null, wanted);
    const found = await whenReady(() => (isWalking(state) ? api.codeTree(state, mine) : api.search(state, { photo, signal: mine.signal })), mine.signal);
    for (const hit of found.answer.hits) items.set(hit.item.item_id, hit.item);
    learnPrices(found.answer.hits.map((hit) => hit.item.price));
    answers.set(wanted, found);
    if (answers.size > REMEMBERED_ANSWERS) answers.delete(answers.keys().next().value);
    clearTimeout(skeletons);
    showAnswer(wanted, found, { more });
  } catch (failure) {
    if (failure.name !== "AbortError") fail(failure, wanted);
  } finally {
    clearTimeout(skeletons);
    if (pending === mine) {
      grid.removeAttribute("aria-busy");
      byId("more").disabled = false;
    }
  }
}

/** Ask again while the engine is still loading. */
async function whenReady(work, signal) {
  for (;;) {
    try {
      return await work();
    } catch (failure) {
      if (failure.status !== 503) throw failure;
      byId("status").textContent = failure.message;
      await new Promise((resolve) => setTimeout(resolve, RETRY_AFTER_MS));
      signal.throwIfAborted();
    }
  }
}

const base = (of) => key({ ...of, k: null });

const shows = () => state.k ?? pageSize(state);

/** How many results an answer has: hits, or codes where it is of the tree. */
const numberOf = (answer) => answer.branches?.length || answer.hits.length;

const walk = (prefix) => go({ ...NOTHING, codes: prefix }).then(() => byId("heading").focus({ preventScroll: true }));

const queryPhoto = () => (state.photo ? photos.get(state.photo) : null);

function showAnswer(wanted, { answer, ms }, { more = false } = {}) {
  const before = more ? shown.answer.branches?.length || shown.hits.length : 0; // in their list: the start page has three of the hits elsewhere
  shown = { key: wanted, base: base(state), answer, hits: [] };
  byId("results").removeAttribute("aria-busy");
  messages.clear();
  showHits({ keepFirst: state.sort ? 0 : before });
  if (isWalking(state)) return showBranches(answer, ms, { before });
  codes.clear();
  const number = answer.hits.length;
  byId("status").textContent = summary(number, answer, ms);
  showNote(number > 0 ? answer.note : null);
  showSwitch();
  showSort(number > 1);
  byId("more").hidden = number < shows() || number >= maxShown(state);
  if (number === 0) messages.nothing(state, { go, note: answer.note });
  if (more) byId("results").children[before]?.querySelector(".open").focus({ preventScroll: true });
}

/** What follows a prefix of the tree of codes; behind a whole ID there are its items, in the grid. */
function showBranches(answer, ms, { before }) {
  codes.render(answer, { onwalk: walk, keepFirst: before });
  byId("status").textContent = codes.summary(answer, ms);
  showNote(null);
  byId("more").hidden = numberOf(answer) >= Math.min(answer.num_branches || answer.num_items, maxShown(state));
  if (before) (byId("branches").children[before] ?? byId("results").children[before])?.querySelector("a, .open").focus({ preventScroll: true });
}

/** What has to be said of an answer that is not quite what was asked for. */
function showNote(sentence) {
  byId("answer-note").textContent = sentence ?? "";
  byId("answer-note").hidden = !sentence;
}

/** The switch between the order in which results were found and the ranker's, where there is one. */
function showSwitch() {
  byId("rank-switch").hidden = ranker === null || !canRank(state);
  byId("rank").checked = state.rank === null ? ranksUnasked() : state.rank === "true";
}

const ranksUnasked = () => ranker !== null && ranker.isUsual && (state.channel ?? ranker.channel) === ranker.channel;

const showSort = (shows) => (byId("sort").closest("label").hidden = !shows);

function summary(number, { num_items: all, channel, ranked }, ms) {
  const order = ranked && number > 1 ? ", in the ranker’s order" : "";
  const time = `${order}${ms === null ? "" : ` · ${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`}`;
  const many = number === shows(); // so many were asked for, so there are more
  const kind = channel === "popularity" ? "most clicked" : "best";
  if (number === 0) return `No results in ${count(all)} items${time}`;
  return many ? `The ${count(number)} ${kind} of ${count(all)} items${time}` : `${plural(number, "result", "results")} in ${count(all)} items${time}`;
}

function showHits({ keepFirst = 0 } = {}) {
  let hits = shown.answer.hits;
  const top = Math.max(...hits.map((hit) => hit.score), 0);
  if (isStart(state)) hits = showIntro(hits);
  if (state.sort) {
    const sign = state.sort === "price" ? 1 : -1;
    hits = hits.toSorted((a, b) => (a.item.price === null) - (b.item.price === null) || sign * (a.item.price - b.item.price) || a.rank - b.rank);
  }
  const same = hits.length === shown.hits.length && hits.every((hit, index) => hit === shown.hits[index]);
  shown.hits = hits;
  if (!same || hits.length === 0) cards.render(hits, { top, keepFirst, onwhy: (hit) => go({ k: state.k, item: hit.item.item_id }, { panel: true }), onsimilar: findSimilar });
}

const findSimilar = (item) => go({ q: null, photo: null, similar: item.item_id, sort: null });

/** The start page: three popular photos as panels; gives the hits that are left for the grid. */
function showIntro(hits) {
  const three = hits.filter((hit) => hit.item.photo_url).slice(0, 3);
  if (three.length < 3 || hits.length < 9) {
    byId("panels").replaceChildren();
    return hits;
  }
  byId("panels").replaceChildren(...three.map(({ item }) => el("button", { type: "button", class: "panel", "aria-label": `Similar to ${item.title || item.item_id}`, onclick: () => findSimilar(item) }, photoOf(item, { eager: true }))));
  return hits.filter((hit) => !three.includes(hit));
}

function fail(failure, wanted) {
  shown = { key: wanted, base: null, answer: null, hits: [] };
  byId("results").replaceChildren();
  byId("results").removeAttribute("aria-busy");
  codes.clear();
  if (failure?.status === 422) codes.showCrumbs(null, { onwalk: walk }); // there is no tree, or this is no place in it
  byId("more").hidden = true;
  byId("panels").replaceChildren();
  byId("status").textContent = "";
  showNote(null);
  showSort(false);
  if (failure === null) messages.photoMissing({ go });
  else messages.failed(failure, state, { go, retry: () => load({ again: true }) });
}

/** Show what is asked: the search field, its chip, filters, headings. */
function showQuestion() {
  const start = isStart(state);
  byId("q").value = state.q ?? "";
  byId("q").placeholder = state.photo ? "Add words to it" : "Search by word or photo";
  showChip();
  filters.show(state, { onchange: go, canChoose: Boolean(state.q) && !state.photo && !state.similar });
  byId("sort").value = state.sort ?? "";
  showSwitch();
  byId("intro").hidden = !start;
  document.body.classList.toggle("walking", isWalking(state));
  codes.showCrumbs(state.codes, { onwalk: walk });
  byId("heading").textContent = heading();
  byId("heading").setAttribute("aria-level", start ? "2" : "1");
  document.title = start ? "Triptych" : `${heading()} · Triptych`;
}

function heading() {
  if (isWalking(state)) return codes.heading(state.codes);
  if (state.similar) return `Similar to ${items.get(state.similar)?.title ?? "an item"}`;
  if (state.photo) return state.q ? `“${state.q}”, like your photo` : "Like your photo";
  if (state.q) return `“${state.q}”`;
  return state.category ? `Popular in ${state.category}` : "Popular now";
}

async function showChip() {
  const place = byId("query-chip");
  const wanted = state.photo ?? state.similar;
  place.hidden = wanted === null;
  if (place.dataset.shows === String(wanted)) return;
  place.dataset.shows = String(wanted);
  place.replaceChildren();
  if (wanted === null) return;
  const remove = el("button", { type: "button", "aria-label": state.photo ? "Remove the photo" : "Stop showing similar items",
    onclick: () => go(state.photo ? { photo: null } : { similar: null }).then(() => byId("q").focus()) }, icon("close"));
  if (state.photo) {
    const blob = await photos.get(wanted);
    const unknown = el("span", { class: "no-photo", "aria-hidden": "true" }, "?");
    const picture = blob ? el("img", { src: photos.addressOf(wanted, blob), alt: "", onerror: () => picture.replaceWith(unknown) }) : unknown;
    if (place.dataset.shows === wanted) place.replaceChildren(picture, el("span", { class: "chip-text" }, "Your photo"), remove);
  } else {
    const item = await itemOf(wanted).catch(() => null);
    if (place.dataset.shows !== wanted) return;
    place.replaceChildren(item ? photoOf(item, { eager: true }) : "", el("span", { class: "chip-text" }, "Similar"), remove);
    if (item && state.similar === wanted) byId("heading").textContent = heading();
  }
}

async function itemOf(itemId) {
  if (!items.has(itemId)) items.set(itemId, (await api.item(itemId, {})).answer);
  return items.get(itemId);
}

async function showPanel() {
  if (state.item === null) return why.close();
  const wanted = state.item;
  const hit = shown.answer?.hits.find((each) => each.item.item_id === wanted) ?? null;
  try {
    const item = hit?.item ?? (await itemOf(wanted));
    const channel = shown.answer?.channel ?? state.channel;
    if (state.item === wanted) await why.open(item, { state, channel, hit, photo: await queryPhoto(), hasCodes, onsimilar: findSimilar, onwalk: walk,
      onitem: (itemId) => go({ k: state.k, item: itemId }, { panel: true }) });
  } catch {
    go({ k: state.k, item: null }, { replace: true }); // the address names an item that is not in this catalogue
  }
}

function closedPanel() {
  if (state.item === null) return;
  if (history.state?.panel) {
    leaving = new Promise((resolve) => window.addEventListener("popstate", resolve, { once: true })).then(() => (leaving = null));
    history.back();
  } else go({ k: state.k, item: null }, { replace: true });
}

async function takePhoto(file) {
  try {
    await go({ photo: await photos.keep(file), similar: null, channel: null });
  } catch (failure) {
    fail(failure, null);
  }
}

function listen() {
  byId("search").addEventListener("submit", (event) => {
    event.preventDefault();
    const q = byId("q").value.trim() || null;
    if (window.matchMedia("(pointer: coarse)").matches) byId("q").blur(); // puts the phone's keyboard away
    go({ q, similar: null });
  });
  byId("q").addEventListener("search", () => byId("q").value === "" && state.q && go({ q: null })); // the field's own × button
  byId("sort").addEventListener("change", (event) => go({ k: state.k, sort: event.target.value || null }, { replace: true }));
  byId("rank").addEventListener("change", (event) => go({ rank: event.target.checked === ranksUnasked() ? null : String(event.target.checked) }));
  byId("more").addEventListener("click", () => go({ k: Math.min(maxShown(state), shows() + pageSize(state)) }, { replace: true }));
  document.querySelector(".wordmark").addEventListener("click", (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    go(NOTHING);
  });
  byId("foot-codes").append(codes.link("", { onwalk: walk }, "Semantic IDs"));
  window.addEventListener("popstate", () => {
    state = parse(location.search);
    update();
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    byId("q").focus();
    byId("q").select();
  });
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog || event.target.closest("[data-close]")) dialog.close();
    });
  }
  byId("why").addEventListener("close", closedPanel);
  filters.listen(go);
  cards.listenForArrows();
  photos.listen(takePhoto);
}

/** What is the same on every view: the values of the filters, the examples, the catalogue's size. */
async function showCatalogue() {
  const { signal } = new AbortController();
  const [facets, info] = await Promise.all(["/api/facets", "/api/info"].map((path) => whenReady(() => api.ask(path), signal)));
  hasCodes = Boolean(info.answer.details.parts.semantic_ids);
  byId("foot-codes").hidden = !hasCodes;
  const { parts, search_channel: searchChannel, search_is_ranked: isUsual } = info.answer.details;
  ranker = parts.ranker ? { isUsual, channel: searchChannel } : null;
  showSwitch();
  filters.fill(facets.answer, { searchChannel, parts });
  filters.show(state, { onchange: go, canChoose: Boolean(state.q) && !state.photo && !state.similar });
  const { num_items: number, example_queries: examples, limits, version } = info.answer;
  photos.limit(limits.photo_bytes);
  byId("intro-lead").textContent = `${count(number)} items, title and photo read together. ${window.matchMedia("(pointer: coarse)").matches ? "Type, or take a picture." : "Type, or drop a picture anywhere on this page."}`;
  messages.offer(examples);
  byId("examples").hidden = examples.length === 0;
  byId("example-list").replaceChildren(...examples.map((q) => el("li", {}, el("button", { class: "chip", type: "button", onclick: () => go({ q, similar: null }) }, q))));
  byId("foot-about").textContent = `Triptych ${version} · ${count(number)} items`;
}

listen();
update();
showCatalogue().catch((failure) => byId("foot-about").append(failure.message));
