// What is asked for, and its form in the address bar: every view can be shared, and the back button works.

const TEXT = ["q", "photo", "similar", "category", "cell", "channel", "sort", "item"];
const NUMBERS = ["min_price", "max_price", "k"];
export const FILTERS = ["category", "cell", "min_price", "max_price"];
export const PAGE_SIZE = 24;
export const MAX_K = 200;

/** The state that an address stands for; what it does not say is null. */
export function parse(search) {
  const parameters = new URLSearchParams(search);
  const state = {};
  for (const name of TEXT) state[name] = parameters.get(name)?.trim() || null;
  for (const name of NUMBERS) {
    const number = parameters.get(name) ? Number(parameters.get(name)) : NaN;
    state[name] = Number.isFinite(number) && number >= 0 ? number : null;
  }
  if (!["dense", "generative", "bm25", "popularity", "hybrid"].includes(state.channel)) state.channel = null;
  if (!["price", "-price"].includes(state.sort)) state.sort = null;
  if (state.k !== null) state.k = Math.min(Math.max(1, Math.round(state.k)), MAX_K);
  return state;
}

/** The address of a state, relative to the page. */
export function address(state) {
  const parameters = new URLSearchParams();
  for (const name of [...TEXT, ...NUMBERS]) if (state[name] !== null) parameters.set(name, state[name]);
  const query = parameters.toString();
  return query ? `?${query}` : "/";
}

/** Which results a state needs: two states with one key differ in sorting or in the open panel only. */
export const key = (state) => address({ ...state, sort: null, item: null });

export const isBrowsing = (state) => !state.q && !state.photo && !state.similar;
export const activeFilters = (state) => FILTERS.filter((name) => state[name] !== null);
export const isStart = (state) => isBrowsing(state) && activeFilters(state).length === 0;
