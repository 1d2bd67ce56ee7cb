// Inside: attention of every layer and head, what each layer would predict, and a token's neighbours.

import { api, fail, h, legend, percent, runner, shown, spoken, svg, tokenRow } from "./dom.js";

export function create(app) {
  let data = null, weights = null, layer = 0, head = 0, at = 0, near = new Map(), last = "";

  const text = h("textarea", { rows: 2, id: "text", spellcheck: false });
  const look = runner("Look inside", read);
  const cut = h("p", { className: "quiet" });
  const row = tokenRow("Tokens of the text", { onselect: point, onpoint: point });
  row.element.classList.add("line");
  const arcs = svg("svg", { class: "arcs", "aria-hidden": "true" });
  const scroller = h("div", { className: "scroll", tabIndex: -1 }, h("div", { className: "arced" }, arcs, row.element));
  const summary = h("p", { "aria-live": "polite" });
  const heads = h("div", { className: "heads" });
  const big = h("canvas", { className: "big", role: "img" });
  const lens = h("div", { className: "scroll lens", tabIndex: 0, role: "region", "aria-label": "Logit lens, all tokens" });
  const layers = h("div");
  const close = h("ol", { className: "near" });
  const attention = h("section", { "aria-label": "Attention" }, h("h2", {}, "Attention"),
    h("p", { className: "quiet" }, "A row is what a token reads: the stronger the colour, the more attention. ",
      "Choose a head; arrow keys move."),
    h("div", { className: "maps" }, heads, big));
  const results = h("div", { hidden: true }, cut, scroller, legend(), summary, attention,
    h("section", { "aria-label": "Logit lens" }, h("h2", {}, "What each layer would predict"), layers,
      h("h3", {}, "First guess of each layer after each token"), lens),
    h("section", { "aria-label": "Neighbours" }, h("h2", {}, "Nearest embeddings"), close));
  const buttons = h("div", { className: "buttons" }, look.button);
  const element = h("div", {}, h("label", { htmlFor: "text" }, "Text"), text, buttons, results);
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) look.run();
  });

  async function read(signal) {
    data = await api("view/inside", { model: app.model.id, text: text.value }, signal);
    weights = data.attention ? Uint8Array.from(atob(data.attention), (c) => c.charCodeAt(0)) : null;
    near = new Map();
    layer = Math.min(layer, Math.max(0, data.layers - 1));
    head = Math.min(head, Math.max(0, data.heads - 1));
    results.hidden = false;
    cut.textContent = data.cut ? `The first ${data.tokens.length} tokens; ${data.cut} more are left out.` : "";
    cut.hidden = !data.cut;
    attention.hidden = !weights;
    row.set(data.tokens);
    drawHeads();
    drawLens();
    last = "";
    row.select(data.tokens.length - 1);
    scroller.scrollLeft = scroller.scrollWidth;
  }

  const count = () => data.tokens.length;
  const weight = (l, k, t, s) => weights[((l * data.heads + k) * count() + t) * count() + s] / 255;

  function paint(canvas, l, k) {
    const n = count(), context = canvas.getContext("2d"), image = context.createImageData(n, n);
    const [red, green, blue] = getComputedStyle(canvas).color.match(/\d+/g).map(Number);
    canvas.width = canvas.height = n;
    for (let i = 0; i < n * n; i++) {
      image.data.set([red, green, blue, 255 * (weights[(l * data.heads + k) * n * n + i] / 255) ** 0.6], 4 * i);
    }
    context.putImageData(image, 0, 0);
  }

  function drawHeads() {
    heads.replaceChildren();
    if (!weights) return;
    for (let l = 0; l < data.layers; l++) {
      const buttons = [];
      for (let k = 0; k < data.heads; k++) {
        const canvas = h("canvas", { "aria-hidden": "true" });
        const label = `Layer ${l + 1}, head ${k + 1}`;
        buttons.push(h("button", { type: "button", "aria-label": label, onclick: () => choose(l, k) }, canvas));
      }
      const number = h("span", {}, `${l + 1}`);
      heads.append(h("div", { className: "layer", role: "group", "aria-label": `Layer ${l + 1}` }, number, ...buttons));
      buttons.forEach((button, k) => paint(button.firstChild, l, k));
    }
    choose(layer, head, false);
  }

  const button = (l, k) => heads.children[l]?.querySelectorAll("button")[k];
  heads.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step || !button(layer + step[0], head + step[1])) return;
    event.preventDefault();
    choose(layer + step[0], head + step[1]);
    button(layer, head).focus();
  });

  function choose(l, k, again = true) {
    [layer, head] = [l, k];
    for (const other of heads.querySelectorAll("button")) Object.assign(other, { ariaPressed: "false", tabIndex: -1 });
    Object.assign(button(l, k), { ariaPressed: "true", tabIndex: 0 });
    paint(big, l, k);
    big.setAttribute("aria-label", `Attention of layer ${l + 1}, head ${k + 1}, ${count()} by ${count()} tokens`);
    if (again) (last = ""), point(at);
  }

  big.addEventListener("pointermove", (event) => {
    const box = big.getBoundingClientRect();
    const place = (x, size) => Math.max(0, Math.min(count() - 1, Math.floor((x / size) * count())));
    const t = place(event.clientY - box.top, box.height), s = place(event.clientX - box.left, box.width);
    big.title = `${shown(data.tokens[t].text)} attends to ${shown(data.tokens[s].text)}: ${percent(weight(layer, head, t, s))}`;
  });

  /** Look at a token: its arcs, the layers' predictions after it, its neighbours. */
  function point(index) {
    if (!data || last === (last = `${index} ${layer} ${head}`)) return;
    at = index;
    row.spans().forEach((span, i) => span.classList.toggle("pointed", i === index));
    drawArcs();
    drawLayers();
    for (const cell of lens.querySelectorAll("[data-t]")) cell.classList.toggle("pointed", cell.dataset.t === String(at));
    const first = lens.querySelector(".pointed");
    lens.scrollLeft = first.offsetLeft - lens.clientWidth / 2;
    neighbours();
  }

  function drawArcs() {
    const spans = row.spans(), middle = (i) => spans[i].offsetLeft + spans[i].offsetWidth / 2;
    const width = row.element.scrollWidth, height = weights ? 90 : 0;
    arcs.replaceChildren();
    const size = { width, height, viewBox: `0 0 ${width} ${height || 1}` };
    for (const [name, value] of Object.entries(size)) arcs.setAttribute(name, value);
    if (!weights) return (summary.textContent = "This model shows no attention.");
    const strongest = [];
    for (let s = 0; s <= at; s++) {
      const w = weight(layer, head, at, s), [x, y] = [middle(s), middle(at)];
      strongest.push([w, s]);
      if (w < 0.02) continue;
      const rise = Math.min(80, 14 + Math.abs(y - x) / 3);
      const to = height - rise, self = `M${x - 6} ${height} q-8 -22 6 -22 q14 0 6 22`;
      const d = s === at ? self : `M${x} ${height} C${x} ${to} ${y} ${to} ${y} ${height}`;
      arcs.append(svg("path", { d, "stroke-width": (0.8 + 7 * w).toFixed(2), opacity: (0.25 + 0.75 * w).toFixed(2) }));
    }
    const named = strongest.sort((a, b) => b[0] - a[0]).slice(0, 4).filter(([w]) => w >= 0.01);
    summary.replaceChildren(`Layer ${layer + 1}, head ${head + 1}: `, h("b", {}, shown(data.tokens[at].text)), " attends to ",
      named.map(([w, s]) => `${shown(data.tokens[s].text)} ${percent(w)}`).join(", "), ".");
  }

  const name = (l) => {
    if (data.lens.length === 1) return "model";
    return l === 0 ? "embedding" : `${l}${l === data.lens.length - 1 ? " (output)" : ""}`;
  };

  function drawLayers() {
    const rows = data.lens.map((tokens, l) => h("tr", {}, h("th", { scope: "row" }, name(l)),
      tokens[at].map(([guess, p]) => h("td", {}, h("b", {}, shown(guess)), ` ${percent(p)}`)))).reverse();
    const places = data.lens[0][at].map((_, i) => h("th", { scope: "col" }, `${i + 1}.`));
    const region = { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Predictions of each layer" };
    layers.replaceChildren(h("h3", {}, `After “${shown(data.tokens[at].text)}”`),
      h("div", region, h("table", {}, h("tr", {}, h("th", { scope: "col" }, "layer"), places), rows)));
  }

  function drawLens() {
    const cell = ([[guess, p]], t) => {
      const found = h("td", { title: percent(p), onclick: () => row.select(t) }, shown(guess));
      found.dataset.t = t;
      found.style.setProperty("--p", `${Math.round(100 * p)}%`);
      return found;
    };
    const top = data.tokens.map(({ text: token }, t) => {
      const found = h("th", { scope: "col" }, shown(token));
      found.dataset.t = t;
      return found;
    });
    lens.replaceChildren(h("table", {}, h("tr", {}, h("th", { scope: "col" }, "layer"), top),
      data.lens.map((tokens, l) => h("tr", {}, h("th", { scope: "row" }, name(l)), tokens.map(cell))).reverse()));
  }

  async function neighbours() {
    const { id, text: token } = data.tokens[at];
    try {
      if (!near.has(id)) near.set(id, api("view/neighbours", { model: app.model.id, token: id }));
      const { tokens } = await near.get(id);
      if (data.tokens[at].id !== id) return;
      close.setAttribute("aria-label", `Nearest to ${spoken(token)}`);
      close.replaceChildren(...tokens.map((other) => h("li", {}, h("b", {}, shown(other.text)), ` ${other.cosine.toFixed(2)}`)));
    } catch (error) {
      fail(error);
    }
  }

  document.addEventListener("theme", () => data && weights && drawHeads());
  addEventListener("resize", () => data && element.isConnected && drawArcs());
  const clear = () => ((results.hidden = true), (data = null));
  return { element, model: clear, hide: look.stop };
}
