// Elements, requests and streams: what all views share.

export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== "list") element[name] = value;
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null));
  return element;
}

export function svg(tag, props = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export const percent = (p) =>
  p < 0.0001 ? "< 0.01 %" : `${p < 0.0995 ? +(100 * p).toPrecision(2) : Math.round(100 * p)} %`;
export const bits = (logprob) => -logprob / Math.LN2;
export const shown = (text) => text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/^ | $/g, "␣") || "␣";
export const spoken = (text) => ({ " ": "space", "\n": "new line", "\t": "tab" })[text] ?? (text.trim() || "blank");

export function fail(error) {
  const place = document.getElementById("error");
  place.textContent = error?.message ?? "";
  place.hidden = !error;
}

const keyed = () => {
  const key = sessionStorage.getItem("key");
  return key ? { Authorization: `Bearer ${key}` } : {};
};

async function request(path, body, signal) {
  const options = { signal, headers: { ...keyed() } };
  if (body !== undefined) {
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
    options.headers["Content-Type"] = "application/json";
  }
  const response = await fetch(path, options);
  if (response.ok) return response;
  if (response.status === 401) {
    const key = prompt("This server needs its API key:");
    if (key) {
      sessionStorage.setItem("key", key);
      return request(path, body, signal);
    }
  }
  const answer = await response.json().catch(() => ({}));
  throw new Error(answer.error?.message ?? `The server answered ${response.status}.`);
}

export const api = async (path, body, signal) => (await request(path, body, signal)).json();

/** Call onevent with the JSON of each server-sent event until the stream ends. */
export async function stream(path, body, onevent, signal) {
  const reader = (await request(path, body, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (text + value).split(/\r?\n\r?\n/);
    text = events.pop();
    for (const event of events) {
      const data = event.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim());
      if (!data.length || data[0] === "[DONE]") continue;
      const found = JSON.parse(data.join("\n"));
      if (found.error) throw new Error(found.error.message);
      onevent(found);
    }
  }
}

/** A button that starts `work(signal)` and, while it runs, stops it. */
export function runner(label, work, props = {}) {
  let control = null;
  const onclick = () => (control ? control.abort() : run());
  const button = h("button", { type: "button", className: "main", ...props, onclick }, label);
  async function run() {
    control = new AbortController();
    button.textContent = "Stop";
    fail(null);
    try {
      await work(control.signal);
    } catch (error) {
      if (error.name !== "AbortError") fail(error);
    } finally {
      control = null;
      button.textContent = label;
    }
  }
  return { button, run, stop: () => control?.abort(), get running() { return control !== null; } };
}

/** The sliders of sampling. values(): what the server gets; null where a setting is off. */
export function sliders(onchange, { tokens = 60, most = 500 } = {}) {
  const fields = [
    ["temperature", "Temperature", 0, 2, 0.05, 1, (v) => (v ? v.toFixed(2) : "greedy")],
    ["top_k", "Top-k", 0, 100, 1, 0, (v) => v || "off"],
    ["top_p", "Top-p", 0.05, 1, 0.01, 1, (v) => (v < 1 ? v.toFixed(2) : "off")],
    ["min_p", "Min-p", 0, 0.5, 0.01, 0, (v) => (v ? v.toFixed(2) : "off")],
    ["n", "Tokens", 1, most, 1, tokens, (v) => v],
  ].map(([name, label, min, max, step, value, show]) => {
    const output = h("output", {}, String(show(value)));
    const input = h("input", { type: "range", min, max, step, value, name, "aria-label": label });
    const update = () => {
      output.textContent = show(input.valueAsNumber);
      input.setAttribute("aria-valuetext", output.textContent);
    };
    input.addEventListener("input", () => (update(), onchange()));
    update();
    return { name, input, row: h("label", { className: "slider" }, h("span", {}, label), input, output) };
  });
  const seed = h("input", { type: "number", min: 0, step: 1, placeholder: "random", "aria-label": "Seed", name: "seed" });
  const number = (name) => fields.find((field) => field.name === name).input.valueAsNumber;
  return {
    element: h("fieldset", { className: "sliders" }, h("legend", {}, "Sampling"), fields.map((field) => field.row),
      h("label", { className: "slider" }, h("span", {}, "Seed"), seed)),
    n: () => number("n"),
    values: () => ({
      temperature: number("temperature"),
      top_k: number("top_k") || null,
      top_p: number("top_p") < 1 ? number("top_p") : null,
      min_p: number("min_p") || null,
      seed: seed.value === "" ? null : Math.trunc(seed.valueAsNumber),
    }),
  };
}

let rows = 0;

/** Tokens in a row, coloured by surprise. Arrow keys move, Enter selects; onpoint follows pointer and focus. */
export function tokenRow(label, { onselect = () => {}, onpoint = () => {} } = {}) {
  const element = h("div", { className: "tokens", role: "listbox", "aria-label": label, tabIndex: 0 });
  const prefix = `row${(rows += 1)}`;
  let spans = [], at = -1, selected = -1;
  const move = (to) => {
    if (!spans.length) return;
    spans[at]?.classList.remove("at");
    at = Math.max(0, Math.min(to, spans.length - 1));
    spans[at].classList.add("at");
    element.setAttribute("aria-activedescendant", spans[at].id);
    spans[at].scrollIntoView({ block: "nearest", inline: "nearest" });
    onpoint(at);
  };
  const select = (index, tell = true) => {
    spans[selected]?.setAttribute("aria-selected", "false");
    selected = index;
    spans[selected]?.setAttribute("aria-selected", "true");
    if (tell) onselect(index);
  };
  const keys = { ArrowLeft: () => move(at - 1), ArrowRight: () => move(at + 1), Home: () => move(0), End: () => move(Infinity),
    Enter: () => at >= 0 && select(at), " ": () => at >= 0 && select(at) };
  element.addEventListener("keydown", (event) => keys[event.key] && (event.preventDefault(), keys[event.key]()));
  element.addEventListener("focus", () => at < 0 && element.matches(":focus-visible") && move(Math.max(0, selected)));
  const index = (event) => spans.indexOf(event.target.closest("[role=option]"));
  element.addEventListener("click", (event) => index(event) >= 0 && (move(index(event)), select(index(event))));
  element.addEventListener("pointerover", (event) => index(event) >= 0 && onpoint(index(event)));
  let count = 0;
  const add = (token) => {
    const known = token.logprob !== null && token.logprob !== undefined;
    const about = known ? `${percent(Math.exp(token.logprob))}, ${bits(token.logprob).toFixed(1)} bits` : "";
    const text = token.text.replace(/\n/g, "⏎\n") || "◦"; // a part of a character
    const span = h("span", { role: "option", id: `${prefix}-${count++}`, "aria-selected": "false", title: about,
      "aria-label": `${spoken(token.text)}${about && `, ${about}`}` }, text);
    if (known) span.style.setProperty("--surprise", `${Math.min(100, 10 * bits(token.logprob))}%`);
    if (token.given) span.classList.add("given");
    spans.push(span);
    element.append(span);
  };
  return {
    element, add, select, spans: () => spans,
    set(list) {
      spans = [];
      at = selected = -1;
      element.replaceChildren();
      element.removeAttribute("aria-activedescendant");
      list.forEach(add);
    },
  };
}

export const legend = () =>
  h("p", { className: "legend quiet" }, "expected ", h("span", { className: "ramp" }), " surprising (≥ 10 bits)");
