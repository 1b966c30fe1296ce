// Shows /openapi.json: what can be called, with which inputs and answers, and a form to call it. It builds elements and never
// markup from text, and asks nobody but the server that it came from.
"use strict";

const METHODS = ["get", "put", "post", "delete", "patch", "head", "options"];
// A schema inside a schema is shown unfolded down to here.
const UNFOLDED = 3;
let api;

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else if (typeof value === "function") made.addEventListener(key, value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}

// Text in which words between backquotes are code.
function prose(text) {
  return String(text).split(/(`[^`]*`)/).map((part) =>
    part.length > 1 && part.startsWith("`") && part.endsWith("`") ? element("code", {}, part.slice(1, -1)) : part);
}

function paragraphs(text) {
  return String(text ?? "").split(/\n\s*\n/).filter(Boolean).map((part) => element("p", {}, prose(part)));
}

function resolve(node) {
  for (let hops = 0; node && node.$ref && hops < 20; hops += 1) {
    node = node.$ref.split("/").slice(1).reduce((at, key) => at?.[key.replaceAll("~1", "/").replaceAll("~0", "~")], api);
  }
  return node ?? {};
}

// A path that may break behind its slashes.
function breakable(path) {
  return path.split(/(?<=\/)/).flatMap((part) => [part, element("wbr")]);
}

function nameOf(node) {
  return node?.$ref ? node.$ref.split("/").pop() : null;
}

// The types of a schema, in words.
function typeOf(schema) {
  const named = nameOf(schema);
  if (named) return named;
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  for (const [key, word] of [["oneOf", " | "], ["anyOf", " | "], ["allOf", " & "]]) {
    if (schema[key]) return schema[key].map(typeOf).join(word);
  }
  const types = [schema.type ?? (schema.properties ? "object" : "any")].flat();
  return types.map((type) => {
    if (type === "array") return `array of ${schema.items ? typeOf(schema.items) : "any"}`;
    return schema.format && type !== "null" ? `${type} (${schema.format})` : type;
  }).join(" | ");
}

function bounds(schema) {
  const told = [];
  const add = (key, words) => schema[key] !== undefined && told.push(`${words} ${JSON.stringify(schema[key])}`);
  add("default", "default");
  add("minimum", "at least");
  add("maximum", "at most");
  add("minLength", "length at least");
  add("maxLength", "length at most");
  add("minItems", "items at least");
  add("maxItems", "items at most");
  if (schema.pattern) told.push(`pattern ${schema.pattern}`);
  return told.join(", ");
}

// The schema as a tree; what is deep or has a name of its own is folded and built when it is opened.
function tree(schema, depth = 0) {
  const inner = resolve(schema);
  const lines = [];
  const told = bounds(inner);
  if (inner.description || told) {
    lines.push(element("span", { class: "note" }, prose(inner.description ?? ""), told ? ` (${told})` : ""));
  }
  const parts = inner.oneOf ?? inner.anyOf ?? inner.allOf;
  if (parts) {
    const words = inner.allOf ? "all of" : "one of";
    lines.push(element("span", { class: "note" }, ` ${words}`), element("ul", {}, parts.map((part) => element("li", {}, folded(part, depth)))));
  }
  if (inner.properties) {
    const needed = new Set(inner.required ?? []);
    lines.push(element("ul", {}, Object.entries(inner.properties).map(([key, value]) =>
      element("li", {}, element("span", { class: "key" }, key), needed.has(key) ? element("span", { class: "needed", title: "required" }, "*") : "", ": ", folded(value, depth)))));
  }
  if (inner.items && !isPlain(inner.items)) lines.push(element("ul", {}, element("li", {}, folded(inner.items, depth))));
  if (inner.additionalProperties && typeof inner.additionalProperties === "object") {
    lines.push(element("ul", {}, element("li", {}, element("span", { class: "key" }, "any key"), ": ", folded(inner.additionalProperties, depth))));
  }
  return element("div", {}, lines);
}

function isPlain(schema) {
  const inner = resolve(schema);
  return !inner.properties && !inner.oneOf && !inner.anyOf && !inner.allOf && !(inner.items && !isPlain(inner.items)) &&
    !(inner.additionalProperties && typeof inner.additionalProperties === "object");
}

function folded(schema, depth) {
  const head = element("span", { class: "what" }, typeOf(schema));
  if (isPlain(schema)) {
    const inner = resolve(schema);
    const told = bounds(inner);
    const note = inner.description || told ? element("span", { class: "note" }, " ", prose(inner.description ?? ""), told ? ` (${told})` : "") : "";
    return element("span", {}, head, note);
  }
  const details = element("details", { toggle: () => fill() }, element("summary", {}, head));
  const fill = () => details.open && details.childElementCount === 1 && details.append(tree(schema, depth + 1));
  if (depth < UNFOLDED && !nameOf(schema)) {
    details.open = true;
    fill();
  }
  return details;
}

function schemaView(schema) {
  return element("div", { class: "type" }, element("span", { class: "what" }, typeOf(schema)), tree(schema));
}

// A value that the schema allows, to begin with.
function example(schema, depth = 0) {
  const inner = resolve(schema);
  if (inner.example !== undefined) return inner.example;
  if (inner.examples?.length) return inner.examples[0];
  if (inner.default !== undefined) return inner.default;
  if (inner.const !== undefined) return inner.const;
  if (inner.enum) return inner.enum[0];
  if (depth > 6) return null;
  if (inner.allOf) return Object.assign({}, ...inner.allOf.map((part) => example(part, depth + 1)));
  const choice = (inner.oneOf ?? inner.anyOf)?.find((part) => resolve(part).type !== "null");
  if (choice) return example(choice, depth + 1);
  const type = [inner.type].flat().find((one) => one !== "null");
  if (inner.properties) {
    const needed = inner.required ?? Object.keys(inner.properties);
    return Object.fromEntries(needed.filter((key) => inner.properties[key]).map((key) => [key, example(inner.properties[key], depth + 1)]));
  }
  if (type === "array") return inner.items ? [example(inner.items, depth + 1)] : [];
  if (type === "object") return {};
  if (type === "string") return inner.format === "date-time" ? new Date().toISOString() : "";
  if (type === "integer" || type === "number") return inner.minimum ?? 1;
  if (type === "boolean") return true;
  return null;
}

function exampleOf(media) {
  if (media.example !== undefined) return media.example;
  const first = Object.values(media.examples ?? {})[0];
  if (first) return resolve(first).value;
  return media.schema ? example(media.schema) : "";
}

function asText(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}

function table(head, rows) {
  return element("div", { class: "wide" }, element("table", {},
    element("thead", {}, element("tr", {}, head.map((word) => element("th", { scope: "col" }, word)))),
    element("tbody", {}, rows)));
}

function parametersView(parameters) {
  if (!parameters.length) return null;
  return [element("h3", {}, "Parameters"), table(["name", "in", "type", ""], parameters.map((parameter) =>
    element("tr", {},
      element("th", { scope: "row" }, element("code", {}, parameter.name), parameter.required ? element("span", { class: "bad", title: "required" }, "*") : ""),
      element("td", {}, parameter.in),
      element("td", {}, element("code", {}, typeOf(parameter.schema ?? {}))),
      element("td", {}, prose(parameter.description ?? ""), " ", element("span", { class: "quiet" }, bounds(resolve(parameter.schema)))))))];
}

function mediaView(content, isFolded = false) {
  return Object.entries(content ?? {}).map(([type, media]) => [
    element("h4", {}, element("code", {}, type)),
    media.schema ? isFolded ? element("div", { class: "type" }, folded(media.schema, UNFOLDED)) : schemaView(media.schema) : null,
  ]);
}

function bodyView(body) {
  if (!body) return null;
  return [element("h3", {}, "Body", body.required ? "" : " (optional)"), paragraphs(body.description), mediaView(body.content)];
}

function responsesView(responses) {
  const rows = Object.entries(responses ?? {}).map(([status, response]) => {
    const told = resolve(response);
    const headers = Object.entries(told.headers ?? {}).map(([name, header]) =>
      element("li", {}, element("code", {}, name), " ", prose(resolve(header).description ?? "")));
    return element("tr", {},
      element("th", { scope: "row", class: `status ${status.startsWith("2") ? "good" : "bad"}` }, status),
      element("td", {}, paragraphs(told.description), mediaView(told.content, !status.startsWith("2")),
        headers.length ? element("details", {}, element("summary", {}, headers.length === 1 ? "1 header" : `${headers.length} headers`), element("ul", {}, headers)) : null));
  });
  return [element("h3", {}, "Answers"), table(["status", "what it says"], rows)];
}

function tryView(path, method, operation, parameters, id) {
  const fields = parameters.filter((parameter) => parameter.in !== "cookie").map((parameter, index) => {
    const schema = resolve(parameter.schema);
    const field = `${id}-${index}`;
    const choices = schema.enum ?? (schema.type === "boolean" ? [true, false] : null);
    const shown = parameter.example ?? schema.examples?.[0] ?? schema.default ?? "";
    const input = choices
      ? element("select", { id: field }, parameter.required ? null : element("option", { value: "" }, "(not sent)"), choices.map((choice) => element("option", {}, String(choice))))
      : element("input", { id: field, autocomplete: "off", spellcheck: "false", required: Boolean(parameter.required), placeholder: parameter.required ? String(shown) : "(not sent)" });
    return { parameter, input, label: element("label", { for: field }, parameter.name, element("span", { class: "of" }, ` ${parameter.in}`)) };
  });
  const content = Object.entries(resolve(operation.requestBody).content ?? {});
  const type = element("select", { id: `${id}-type`, change: () => offer() }, content.map(([name]) => element("option", {}, name)));
  const text = element("textarea", { id: `${id}-body`, spellcheck: "false" });
  const file = element("input", { id: `${id}-file`, type: "file" });
  const isForm = () => type.value === "multipart/form-data";
  const isFile = () => isForm() || !/json|text|csv/.test(type.value);
  const parts = element("div");
  const offer = () => {
    const media = content.find(([name]) => name === type.value)?.[1] ?? {};
    [textBox, fileBox].forEach((box) => { box.hidden = true; });
    parts.replaceChildren();
    if (isForm()) {
      parts.append(...Object.keys(resolve(media.schema).properties ?? {}).flatMap((name) =>
        [element("label", { for: `${id}-${name}` }, name), element("input", { id: `${id}-${name}`, name, type: "file" })]));
    } else if (isFile()) fileBox.hidden = false;
    else {
      textBox.hidden = false;
      text.value = asText(exampleOf(media));
    }
  };
  const textBox = element("div", {}, element("label", { for: text.id }, "Body"), text);
  const fileBox = element("div", {}, element("label", { for: file.id }, "File"), file);
  const answer = element("div", { role: "status", "aria-live": "polite" });
  const send = element("button", { type: "submit" }, "Send");

  const request = () => {
    const query = new URLSearchParams();
    const headers = new Headers();
    let address = path;
    for (const { parameter, input } of fields) {
      if (parameter.in === "path") address = address.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
      else if (input.value !== "" && parameter.in === "query") query.append(parameter.name, input.value);
      else if (input.value !== "" && parameter.in === "header") headers.append(parameter.name, input.value);
    }
    const options = { method: method.toUpperCase(), headers };
    if (content.length) {
      if (isForm()) {
        options.body = new FormData();
        for (const part of parts.querySelectorAll("input")) if (part.files[0]) options.body.append(part.name, part.files[0]);
      } else {
        options.body = isFile() ? file.files[0] ?? "" : text.value;
        headers.set("content-type", type.value);
      }
    }
    const asked = query.toString();
    return [address + (asked ? `?${asked}` : ""), options];
  };
  const quoted = (word) => `'${word.replaceAll("'", "'\\''")}'`;
  const curl = () => {
    const [address, options] = request();
    const words = ["curl"];
    if (options.method !== "GET") words.push("-X", options.method);
    for (const [name, value] of options.headers) words.push("-H", quoted(`${name}: ${value}`));
    if (options.body instanceof FormData) for (const [name, part] of options.body) words.push("-F", quoted(`${name}=@${part.name}`));
    else if (options.body instanceof File) words.push("--data-binary", quoted(`@${options.body.name}`));
    else if (options.body) words.push("--data-binary", quoted(options.body));
    words.push(quoted(location.origin + address));
    return words.join(" ");
  };
  const show = async (event) => {
    event.preventDefault();
    send.disabled = true;
    const [address, options] = request();
    const began = performance.now();
    try {
      const response = await fetch(address, options);
      const blob = await response.blob();
      const ms = (performance.now() - began).toFixed(1);
      answer.replaceChildren(
        element("p", {}, element("span", { class: `status ${response.ok ? "good" : "bad"}` }, `${response.status} ${response.statusText}`), element("span", { class: "quiet" }, ` ${blob.size} bytes in ${ms} ms`)),
        element("details", {}, element("summary", {}, "Headers"), element("pre", {}, [...response.headers].map(([name, value]) => `${name}: ${value}`).join("\n"))),
        await shown(response, blob));
    } catch (error) {
      answer.replaceChildren(element("p", { class: "bad" }, `no answer: ${error.message}`));
    }
    send.disabled = false;
  };
  const asCurl = element("button", { type: "button", class: "second", click: () => answer.replaceChildren(element("pre", {}, curl())) }, "Show as curl");
  if (content.length) offer();
  return element("form", { class: "try", submit: show },
    element("h3", {}, "Try it"),
    fields.map(({ label, input }) => [label, input]),
    content.length ? [element("label", { for: type.id }, "Content type"), type, textBox, fileBox, parts] : null,
    send, asCurl, answer);
}

async function shown(response, blob) {
  const type = response.headers.get("content-type") ?? "";
  if (!blob.size) return element("p", { class: "quiet" }, "The body is empty.");
  if (!/json|text/.test(type)) return element("p", { class: "quiet" }, `The body is ${type || "of no type"}.`);
  const text = await blob.text();
  let pretty = text;
  try {
    pretty = type.includes("json") ? JSON.stringify(JSON.parse(text), null, 2) : text;
  } catch {
    // It is shown as it came.
  }
  const most = 200000;
  return element("pre", { tabindex: "0" }, pretty.length > most ? `${pretty.slice(0, most)}\n…` : pretty);
}

function operationView({ path, method, operation, id, parameters }) {
  const details = element("details", { class: "operation", id, toggle: () => fill() },
    element("summary", {}, element("span", { class: `method ${method}` }, method.toUpperCase()), element("span", { class: "path" }, breakable(path)), element("span", { class: "said" }, prose(operation.summary ?? ""))));
  const fill = () => {
    if (!details.open || details.childElementCount > 1) return;
    details.append(element("div", { class: "body" },
      paragraphs(operation.description),
      parametersView(parameters),
      bodyView(operation.requestBody && resolve(operation.requestBody)),
      responsesView(operation.responses),
      tryView(path, method, operation, parameters, id)));
  };
  return details;
}

function operations() {
  return Object.entries(api.paths).flatMap(([path, item]) => METHODS.filter((method) => item[method]).map((method) => {
    const operation = item[method];
    const parameters = [...(item.parameters ?? []), ...(operation.parameters ?? [])].map(resolve);
    const id = `${method}${path.replace(/[^a-z0-9]+/gi, "-")}`.replace(/-+$/, "");
    return { path, method, operation, parameters, id, tag: operation.tags?.[0] ?? "other" };
  }));
}

function render() {
  const { title, version, description } = api.info;
  document.title = `${title} ${version}`;
  document.getElementById("title").textContent = `${title} ${version}`;
  document.getElementById("about").replaceChildren(...prose(description ?? ""));
  const all = operations();
  const tags = new Map((api.tags ?? []).map((tag) => [tag.name, tag.description]));
  for (const { tag } of all) if (!tags.has(tag)) tags.set(tag, "");
  const index = document.getElementById("index");
  const main = document.getElementById("operations");
  const groups = [];
  for (const [tag, description] of tags) {
    const here = all.filter((one) => one.tag === tag).map((one) => {
      const item = element("li", {}, element("a", { href: `#${one.id}` }, element("span", { class: `method ${one.method}` }, one.method.toUpperCase()), element("span", {}, breakable(one.path))));
      const words = `${one.method} ${one.path} ${one.operation.summary ?? ""} ${one.operation.description ?? ""}`.toLowerCase();
      return { item, view: operationView(one), words };
    });
    if (!here.length) continue;
    const heading = element("h2", {}, tag);
    const list = element("div", {}, heading, element("ul", {}, here.map((one) => one.item)));
    const section = element("section", { "aria-label": tag }, element("h2", {}, tag), description ? element("p", {}, prose(description)) : null, here.map((one) => one.view));
    index.append(list);
    main.append(section);
    groups.push({ list, section, here });
  }
  const schemas = Object.entries(api.components?.schemas ?? {});
  main.append(element("section", { "aria-label": "Schemas" }, element("h2", {}, "Schemas"), schemas.map(([name, schema]) => {
    const details = element("details", { class: "schema", id: `schema-${name}`, toggle: () => details.open && details.childElementCount === 1 && details.append(element("div", { class: "body" }, schemaView(schema))) },
      element("summary", {}, element("span", { class: "path" }, name)));
    return details;
  })));
  const filter = document.getElementById("filter");
  const matches = document.getElementById("matches");
  const apply = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const { list, section, here } of groups) {
      let some = false;
      for (const { item, view, words: said } of here) {
        const found = words.every((word) => said.includes(word));
        item.hidden = view.hidden = !found;
        some ||= found;
        count += found;
      }
      list.hidden = section.hidden = !some;
    }
    matches.textContent = words.length ? `${count} of ${all.length} operations` : `${all.length} operations`;
  };
  filter.addEventListener("input", apply);
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      filter.focus();
    }
  });
  apply();
  open();
}

// Opens what the address names.
function open() {
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (named?.tagName === "DETAILS") {
    named.open = true;
    named.scrollIntoView();
    named.querySelector("summary").focus({ preventScroll: true });
  }
}

addEventListener("hashchange", open);

fetch("/openapi.json").then((response) => response.ok ? response.json() : Promise.reject(new Error(`status ${response.status}`))).then((document_) => {
  api = document_;
  render();
}).catch((error) => {
  document.getElementById("about").textContent = `The document could not be read: ${error.message}`;
});
