// The API for people: the OpenAPI document as a page (the stock viewers load their scripts from elsewhere).

import { byId, el } from "./dom.js";
import { ask } from "./api.js";

const { answer: api } = await ask("/api/openapi.json");
const resolve = (schema) => (schema?.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema);

/** Text with what stands between backticks as code. */
const prose = (text) => text.split(/`+/).map((part, index) => (index % 2 ? el("code", {}, part) : part));

for (const [path, methods] of Object.entries(api.paths)) {
  for (const [method, operation] of Object.entries(methods)) byId("docs").append(section(path, method, operation));
}

function section(path, method, operation) {
  const rows = [...(operation.parameters ?? []).map((each) => ({ ...each, ...pick(each.schema) })), ...fields(operation)];
  const answers = Object.entries(operation.responses).map(([status, { description }]) => `${status} ${description}`);
  return el("section", { id: operation.operationId },
    el("h2", {}, el("span", { class: "method" }, method.toUpperCase()), " ", el("code", {}, path)),
    el("p", {}, ...prose(operation.description ?? operation.summary)),
    rows.length ? el("dl", { class: "details" }, ...rows.flatMap((row) => [
      el("dt", {}, el("code", {}, row.name)),
      el("dd", {}, [row.text, row.required ? "required" : row.fallback].filter(Boolean).join(" · "), row.description ? el("p", { class: "note" }, ...prose(row.description)) : null)])) : null,
    el("p", { class: "note" }, ...prose(answers.join("  ·  "))));
}

/** The fields of an operation's body. */
function fields(operation) {
  const content = Object.values(operation.requestBody?.content ?? {})[0];
  const schema = resolve(content?.schema);
  return Object.entries(schema?.properties ?? {}).map(([name, each]) => ({ name, description: each.description, required: schema.required?.includes(name), ...pick(each) }));
}

/** Type, limits and default of a schema, in words. */
function pick(schema) {
  const one = resolve(schema.anyOf?.find((each) => each.type !== "null") ?? schema);
  const limits = [
    one.minimum !== undefined ? `at least ${one.minimum}` : null, one.maximum !== undefined ? `at most ${one.maximum}` : null,
    one.maxLength ? `at most ${one.maxLength} characters` : null, one.enum ? one.enum.join(" | ") : null,
  ].filter(Boolean);
  const type = one.contentMediaType || one.format === "binary" ? "file" : one.type;
  const fallback = schema.default === undefined || schema.default === null ? null : `default ${schema.default}`;
  return { text: [type, ...limits].join(", "), fallback };
}
