// Talking to the service. Every failure becomes a Failure with one sentence to show.

import { FILTERS, MAX_K, isBrowsing, pageSize } from "./state.js";

export class Failure extends Error {
  /** @param {number} status HTTP status, 0 where the service could not be reached. @param {string|null} requestId finds it in the log. */
  constructor(sentence, status, requestId = null) {
    super(sentence);
    this.status = status;
    this.requestId = requestId;
  }
}

/** Ask for JSON; gives the body and the time the service took (ms, null if it does not say). */
export async function ask(path, { signal, body } = {}) {
  let response;
  try {
    response = await fetch(path, { signal, body, method: body ? "POST" : "GET", headers: { accept: "application/json" } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The service cannot be reached. Is it still running?", 0);
  }
  const answer = await response.json().catch(() => null);
  if (!response.ok || answer === null) {
    const sentence = answer?.detail ?? `The service answered ${response.status} ${response.statusText}.`;
    throw new Failure(sentence, response.status, response.headers.get("x-request-id"));
  }
  const timing = /total;dur=([\d.]+)/.exec(response.headers.get("server-timing") ?? "");
  return { answer, ms: timing ? Number(timing[1]) : null };
}

/** The hits of a state. @param {Blob|null} photo the photo it names, if any. */
export function search(state, { photo, signal }) {
  const asked = { k: state.k ?? pageSize(state) };
  for (const name of FILTERS) if (state[name] !== null) asked[name] = state[name];
  if (state.similar) return ask(`/api/similar/${encodeURIComponent(state.similar)}?${new URLSearchParams(asked)}`, { signal });
  if (state.q) asked.q = state.q;
  if (isBrowsing(state)) asked.channel = "popularity";
  else if (state.channel) asked.channel = state.channel;
  if (!photo) return ask(`/api/search?${new URLSearchParams(asked)}`, { signal });
  return ask("/api/search", { signal, body: form(asked, photo) });
}

/** Why an item is among the hits of a state. */
export function why(state, itemId, { channel, photo, signal }) {
  const asked = { item_id: itemId };
  if (["recall", "dense", "generative", "hybrid"].includes(channel)) asked.channel = channel;
  if (state.q) asked.q = state.q;
  if (!photo) return ask(`/api/why?${new URLSearchParams(asked)}`, { signal });
  return ask("/api/why", { signal, body: form(asked, photo) });
}

/** What follows a prefix of semantic IDs, or the items that share a whole one; so many as the state shows. */
export async function codeTree(state, { signal }) {
  const wanted = state.k ?? pageSize(state);
  let whole = null;
  for (let offset = 0; offset < wanted; offset += MAX_K) {
    const asked = new URLSearchParams({ prefix: state.codes, limit: Math.min(MAX_K, wanted - offset), offset });
    const { answer, ms } = await ask(`/api/codes?${asked}`, { signal });
    if (whole === null) whole = { answer, ms };
    else {
      whole.answer.branches.push(...answer.branches);
      whole.answer.hits.push(...answer.hits);
    }
    if (offset + MAX_K >= (answer.num_branches || answer.num_items)) break;
  }
  return whole;
}

/** An item's semantic ID and the items near it by prefix. */
export const codes = (itemId, { of = "item", signal }) => ask(`/api/codes/${encodeURIComponent(itemId)}?k=5&of=${of}`, { signal });

export const item = (itemId, { signal }) => ask(`/api/items/${encodeURIComponent(itemId)}`, { signal });

function form(asked, photo) {
  const body = new FormData();
  for (const [name, value] of Object.entries(asked)) body.set(name, value);
  body.set("photo", photo, "photo.jpg");
  return body;
}
