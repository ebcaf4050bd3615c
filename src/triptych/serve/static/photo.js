// The photo to search with: chosen, dropped or pasted; shrunk here (the model sees far fewer pixels), and kept for this tab
// under a short id, so that reloading and the back button find it again.

import { byId } from "./dom.js";
import { Failure } from "./api.js";

const MAX_SIDE_PX = 640;
const KEPT = "triptych-photo-";

const kept = new Map();
let maxBytes = Infinity; // until the service has told its limit; it keeps it itself

/** Set the size of the largest photo that the service takes. */
export function limit(bytes) {
  maxBytes = bytes;
}

/** Take a photo in; gives its id. Throws a Failure where the file is too large and cannot be shrunk here. */
export async function keep(file) {
  const blob = await shrink(file);
  if (blob.size > maxBytes) throw new Failure(`The photo is larger than ${+(maxBytes / 2 ** 20).toPrecision(3)} MiB; choose a smaller one.`, 413);
  const id = await fingerprint(blob);
  kept.set(id, blob);
  await remember(id, blob);
  return id;
}

/** The photo with this id, or null where this tab does not have it (a shared address). */
export async function get(id) {
  if (kept.has(id)) return kept.get(id);
  const stored = sessionStorage.getItem(KEPT + id);
  if (!stored) return null;
  const [type, base64] = stored.split(",");
  const blob = new Blob([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], { type });
  kept.set(id, blob);
  return blob;
}

const addresses = new Map();

/** An address under which the page can show a photo. */
export function addressOf(id, blob) {
  if (!addresses.has(id)) addresses.set(id, URL.createObjectURL(blob));
  return addresses.get(id);
}

/** Listen for photos: the button's file field, a drop anywhere, a paste anywhere. */
export function listen(take) {
  const field = byId("photo-file");
  byId("photo-button").addEventListener("click", () => field.click());
  field.addEventListener("change", () => {
    if (field.files.length) take(field.files[0]);
    field.value = ""; // the same file may be chosen again
  });
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
    if (file) take(file);
  });
  listenForDrops(take);
}

function listenForDrops(take) {
  const veil = byId("drop");
  const hasFile = (event) => [...event.dataTransfer.types].includes("Files");
  let depth = 0; // enter and leave also come from every element inside the page
  document.addEventListener("dragenter", (event) => {
    if (hasFile(event)) veil.hidden = ++depth === 0;
  });
  document.addEventListener("dragleave", (event) => {
    if (hasFile(event)) veil.hidden = --depth <= 0;
  });
  document.addEventListener("dragover", (event) => {
    if (hasFile(event)) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    depth = 0;
    veil.hidden = true;
    if (!hasFile(event)) return;
    event.preventDefault();
    if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  });
}

/** A smaller JPEG of the photo; the file itself where the browser cannot read it (the service then says what it thinks). */
async function shrink(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return file;
  }
  const scale = Math.min(1, MAX_SIDE_PX / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // JPEG has no transparency, and the model was trained with white behind it
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return new Promise((resolve) => canvas.toBlob((blob) => resolve(blob ?? file), "image/jpeg", 0.92));
}

/** A short id from the bytes (FNV-1a, because crypto.subtle exists on secure addresses only). */
async function fingerprint(blob) {
  let hash = 0xcbf29ce484222325n;
  for (const byte of new Uint8Array(await blob.arrayBuffer())) hash = ((hash ^ BigInt(byte)) * 0x100000001b3n) & 0xffffffffffffffffn;
  return hash.toString(36);
}

async function remember(id, blob) {
  const text = await new Promise((resolve) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.readAsDataURL(blob);
  });
  try {
    sessionStorage.setItem(KEPT + id, `${blob.type},${text.slice(text.indexOf(",") + 1)}`);
  } catch {
    // The store is full or switched off: the photo then lasts until the page is reloaded.
  }
}
