// What is asked for, and its form in the address bar: every view can be shared, and the back button works.

const TEXT = ["q", "photo", "similar", "user", "category", "cell", "channel", "rank", "sort", "item"];
const NUMBERS = ["min_price", "max_price", "k"];
export const FILTERS = ["category", "cell", "min_price", "max_price"];
const QUESTION = ["q", "photo", "similar", "user", ...FILTERS, "channel", "rank", "sort"];
export const MAX_K = 200; // of one answer
const PAGE_SIZE = { hits: 24, codes: 60 };
const MAX_SHOWN = { hits: MAX_K, codes: 2000 };

/** The state that an address stands for; what it does not say is null. */
export function parse(search) {
  const parameters = new URLSearchParams(search);
  const state = {};
  for (const name of TEXT) state[name] = parameters.get(name)?.trim() || null;
  for (const name of NUMBERS) {
    const number = parameters.get(name) ? Number(parameters.get(name)) : NaN;
    state[name] = Number.isFinite(number) && number >= 0 ? number : null;
  }
  state.codes = parameters.get("codes")?.trim() ?? null; // "" is the root of the tree
  if (state.codes !== null) for (const name of QUESTION) state[name] = null;
  if (!["dense", "generative", "bm25", "popularity", "hybrid"].includes(state.channel)) state.channel = null;
  if (!["true", "false"].includes(state.rank)) state.rank = null; // as validation chose
  if (!["price", "-price"].includes(state.sort)) state.sort = null;
  if (state.k !== null) state.k = Math.min(Math.max(1, Math.round(state.k)), maxShown(state));
  return state;
}

/** The address of a state, relative to the page. */
export function address(state) {
  const parameters = new URLSearchParams();
  for (const name of ["codes", ...TEXT, ...NUMBERS]) if (state[name] !== null) parameters.set(name, state[name]);
  const query = parameters.toString();
  return query ? `?${query}` : "/";
}

/** Which results a state needs: two states with one key differ in sorting or in the open panel only. */
export const key = (state) => address({ ...state, sort: null, item: null });

/** How many results are shown at first, and for each time that more are wanted; and how many at most. */
export const pageSize = (state) => (isWalking(state) ? PAGE_SIZE.codes : PAGE_SIZE.hits);
export const maxShown = (state) => (isWalking(state) ? MAX_SHOWN.codes : MAX_SHOWN.hits);

/** Whether a change asks for something else than what is in the tree of codes. */
export const asks = (change) => QUESTION.some((name) => name in change);

export const isWalking = (state) => state.codes !== null;
export const isBrowsing = (state) => !isWalking(state) && !state.q && !state.photo && !state.similar;
/** Whether a ranker may order the results: what was found by words alone, by a channel whose *why* can tell of it. */
export const canRank = (state) => Boolean(state.q) && !state.photo && !state.similar && !["bm25", "popularity"].includes(state.channel);
export const activeFilters = (state) => FILTERS.filter((name) => state[name] !== null);
export const isStart = (state) => isBrowsing(state) && activeFilters(state).length === 0;
