// Building the page. Text only ever becomes text nodes, so nothing in the catalogue can become markup.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element: properties that start with "on" are listeners, the others attributes; false and null leave them out. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** An icon from the sprite in index.html. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

export const byId = (id) => document.getElementById(id);

const whole = new Intl.NumberFormat();
const cents = new Intl.NumberFormat(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const short = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1, notation: "compact" });

export const count = (number) => whole.format(number);
export const score = (number) => (Math.abs(number) < 100 ? cents.format(number) : short.format(number));
export const plural = (number, one, many) => `${count(number)} ${number === 1 ? one : many}`;

let wholePrices = true;

/** Learn how prices are written here: with two decimals as soon as one of them has a fraction, so that they line up. */
export function learnPrices(prices) {
  wholePrices &&= prices.every((each) => each === null || Number.isInteger(each));
}

/** A price that somebody typed: as it was meant, whatever the prices beside it look like. */
export const amount = (number) => (Number.isInteger(number) ? whole : cents).format(number);

export const price = (number) => (wholePrices ? whole.format(number) : cents.format(number));

/** The photo of an item, or a designed stand-in where there is none or it does not load. */
export function photo(item, { eager = false } = {}) {
  if (!item.photo_url) return placeholder(item);
  const image = el("img", {
    src: item.photo_url, alt: "", loading: eager ? "eager" : "lazy", decoding: "async", draggable: "false",
  });
  image.addEventListener("error", () => image.replaceWith(placeholder(item)), { once: true });
  return image;
}

function placeholder(item) {
  const letter = [...(item.title || item.item_id).trim()][0] ?? "?";
  return el("span", { class: "no-photo" }, el("span", { "aria-hidden": "true" }, letter), el("small", {}, "No photo"));
}
