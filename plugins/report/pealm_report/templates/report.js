"use strict";
// Draws the charts from the numbers in #data. A series is [step, value, step, value, ...].
const runs = JSON.parse(document.getElementById("data").textContent);
const controls = document.getElementById("controls");
const CHARTS = {
  loss: { height: 380, lines: [["raw", "loss"], ["", "loss.mean"], ["val", "val"]], tip: [["training", "loss.mean"], ["validation", "val"]] },
  lr: { height: 220, zero: true, lines: [["", "lr"]], tip: [["", "lr"]] },
  grad_norm: { height: 220, zero: true, lines: [["raw", "grad_norm"], ["", "grad_norm.mean"]], tip: [["step", "grad_norm"], ["mean", "grad_norm.mean"]] },
  tokens_per_second: { height: 220, zero: true, lines: [["raw", "tokens_per_second"], ["", "tokens_per_second.mean"]], tip: [["mean", "tokens_per_second.mean"]] },
};
const LEFT = 52, RIGHT = 14, TOP = 10, BOTTOM = 34;

function make(name, attributes, parent, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

// A run's colour; where there is one run alone, its validation has another.
function colour(number, name) {
  return `run${(runs.length === 1 && name === "val" ? 1 : number) % 6}`;
}

function short(value, digits = 4) {
  for (const [limit, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]])
    if (Math.abs(value) >= limit) return +(value / limit).toPrecision(digits) + letter;
  const rounded = +value.toPrecision(digits);
  return value && Math.abs(value) < 1e-3 ? rounded.toExponential() : String(rounded);
}

function time(seconds) {
  if (seconds < 120) return +seconds.toPrecision(3) + " s";
  return seconds < 7200 ? +(seconds / 60).toPrecision(3) + " min" : +(seconds / 3600).toPrecision(3) + " h";
}

// Where in an ascending list a value stands: the index of the last entry that is not above it.
function locate(list, value) {
  let low = 0, high = list.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (list[middle] <= value) low = middle; else high = middle - 1;
  }
  return low;
}

function interpolate(from, to, value) {
  if (!from.length) return value;
  const at = Math.min(locate(from, value), from.length - 2);
  if (at < 0) return to[0];
  const width = from[at + 1] - from[at];
  return to[at] + (to[at + 1] - to[at]) * (width ? (value - from[at]) / width : 0);
}

// A run's series as points {x, y, step}, x in the unit that is chosen.
function points(run, name, unit) {
  const found = [];
  const list = run[name] ?? [];
  for (let i = 0; i < list.length; i += 2)
    found.push({ step: list[i], y: list[i + 1], x: unit === "step" ? list[i] : interpolate(run.axis.step, run.axis[unit], list[i]) });
  return found;
}

function niceTicks(low, high, count) {
  const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const ticks = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n++) ticks.push(+(n * step).toPrecision(12));
  return ticks;
}

function logTicks(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const n of [1, 1.5, 2, 3, 4, 6, 8]) ticks.push(+(n * 10 ** power).toPrecision(3));
  const inside = ticks.filter((tick) => tick >= low && tick <= high);
  return inside.length > 2 ? inside : niceTicks(low, high, 6);
}

function timeTicks(high, count) {
  const unit = high < 120 ? 1 : high < 7200 ? 60 : 3600;
  return niceTicks(0, high / unit, count).map((tick) => tick * unit);
}

class Chart {
  constructor(figure) {
    this.key = figure.dataset.chart;
    this.kind = CHARTS[this.key] ?? { height: 220, lines: [["more", this.key]], tip: [["", this.key]] };
    this.plot = document.createElement("div");
    this.plot.className = "plot";
    this.plot.tabIndex = 0;
    this.plot.setAttribute("role", "group");
    this.plot.setAttribute("aria-label", figure.querySelector("figcaption").firstChild.textContent.trim() + ": arrow keys read values");
    this.tip = document.createElement("div");
    this.tip.className = "tip";
    this.tip.setAttribute("role", "status");
    const box = document.createElement("div");
    box.className = "box";
    box.append(this.plot, this.tip);
    figure.append(box);
    this.at = null;
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerdown", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.show(null));
    this.plot.addEventListener("blur", () => this.show(null));
    this.plot.addEventListener("keydown", (event) => this.press(event));
    new ResizeObserver(() => { if (this.plot.clientWidth !== this.width) this.draw(); }).observe(this.plot);
  }

  draw() {
    const unit = controls.elements.x.value;
    const on = [...controls.querySelectorAll("[name=run]")].filter((box) => box.checked).map((box) => +box.value);
    this.shown = runs.map((run, number) => ({ run, number })).filter(({ number }) => runs.length === 1 || on.includes(number));
    this.width = this.plot.clientWidth;
    this.height = Math.min(this.kind.height, Math.max(200, this.width * 0.75));
    this.series = [];
    for (const { run, number } of this.shown)
      for (const [kind, name] of this.kind.lines) this.series.push({ kind, name, run, number, points: points(run, name, unit) });
    const every = this.series.flatMap((line) => line.points);
    this.plot.replaceChildren();
    this.show(null);
    const svg = make("svg", { viewBox: `0 0 ${this.width} ${this.height}`, "aria-hidden": "true" }, this.plot);
    if (!every.length) {
      make("text", { x: this.width / 2, y: this.height / 2, "text-anchor": "middle" }, svg, "nothing yet");
      return;
    }
    const floors = this.key === "loss" ? this.shown.map(({ run }) => run.floor).filter((floor) => floor !== null) : [];
    const before = this.key === "loss" ? this.shown.filter(({ run }) => run.before !== null) : [];
    const ys = [...every.map((p) => p.y), ...floors, ...before.map(({ run }) => run.before)];
    let low = ys.reduce((a, b) => Math.min(a, b)), high = ys.reduce((a, b) => Math.max(a, b));
    const log = this.key === "loss" && controls.elements.log.checked && low > 0;
    if (this.kind.zero) low = Math.min(0, low);
    if (log) [low, high] = [low / 1.06, high * 1.03];
    else [low, high] = [this.kind.zero && low === 0 ? 0 : low - 0.04 * (high - low || 1), high + 0.04 * (high - low || 1)];
    this.high = every.reduce((a, p) => Math.max(a, p.x), 0) || 1;
    const scale = log ? Math.log : (y) => y;
    this.x = (x) => LEFT + (x / this.high) * (this.width - LEFT - RIGHT);
    this.y = (y) => TOP + ((scale(high) - scale(y)) / (scale(high) - scale(low))) * (this.height - TOP - BOTTOM);

    const ticks = log ? logTicks(low, high) : niceTicks(low, high, this.height / 45);
    const digits = Math.min(12, Math.max(4, 1 + Math.ceil(Math.log10(Math.max(-low, high) / (ticks[1] - ticks[0])) || 0)));
    for (const tick of ticks) {
      make("path", { class: "grid", d: `M${LEFT} ${this.y(tick)}H${this.width - RIGHT}` }, svg);
      make("text", { x: LEFT - 6, y: this.y(tick) + 4, "text-anchor": "end" }, svg, short(tick, digits));
    }
    const bottom = this.height - BOTTOM, count = Math.max(2, this.width / 110);
    make("path", { class: "zero", d: `M${LEFT} ${bottom}H${this.width - RIGHT}` }, svg);
    for (const tick of unit === "seconds" ? timeTicks(this.high, count) : niceTicks(0, this.high, count)) {
      const end = this.x(tick) > this.width - RIGHT - 16;
      make("text", { x: this.x(tick) + (end ? 6 : 0), y: bottom + 18, "text-anchor": end ? "end" : "middle" }, svg, this.unit(tick));
    }
    const different = new Set(floors);
    for (const floor of different) {
      const { number } = this.shown.find(({ run }) => run.floor === floor);
      make("path", { class: `series floor ${different.size > 1 ? colour(number) : ""}`, d: `M${LEFT} ${this.y(floor)}H${this.width - RIGHT}` }, svg);
    }
    for (const { run, number } of before)
      make("circle", { class: `dot ${colour(number, "val")}`, cx: this.x(0), cy: this.y(run.before), r: 3.5 }, svg);
    for (const line of this.series) {
      const d = line.points.map((p, i) => `${i ? "L" : "M"}${this.x(p.x).toFixed(1)} ${this.y(p.y).toFixed(1)}`).join("");
      const dash = Math.floor(line.number / 6) % 3;
      if (d) make("g", { class: `dash${dash}` }, svg).append(make("path", { class: `series ${line.kind} ${colour(line.number, line.name)}`, d }, svg));
      if (!["val", "more"].includes(line.kind) || !line.points.length) continue;
      if (line.points.length <= 40)
        for (const p of line.points) make("circle", { class: `dot ${colour(line.number, line.name)}`, cx: this.x(p.x), cy: this.y(p.y), r: 3.5 }, svg);
      if (line.kind === "more") continue;
      const [best] = points(line.run, "best", unit);
      make("circle", { class: "best", cx: this.x(best.x), cy: this.y(best.y), r: 6.5 }, svg);
    }
    this.cursor = make("path", { class: "cursor" }, svg);
  }

  unit(x) {
    return controls.elements.x.value === "seconds" ? time(x) : short(x);
  }

  point(event) {
    const box = this.plot.getBoundingClientRect();
    this.show((((event.clientX - box.left) / box.width) * this.width - LEFT) / (this.width - LEFT - RIGHT));
  }

  press(event) {
    const step = { ArrowLeft: -0.01, ArrowRight: 0.01, PageUp: -0.1, PageDown: 0.1 }[event.key];
    if (step) this.show((this.at ?? 0) + step);
    else if (event.key === "Home" || event.key === "End") this.show(event.key === "End" ? 1 : 0);
    else if (event.key === "Escape") this.show(null);
    else return;
    event.preventDefault();
  }

  // Show the values at a share of the width, 0 to 1; null: none.
  show(at) {
    this.at = at === null ? null : Math.min(1, Math.max(0, at));
    this.tip.replaceChildren();
    if (this.cursor) this.cursor.setAttribute("d", "");
    if (this.at === null || !this.series?.some((line) => line.points.length)) return;
    const x = this.at * this.high;
    this.cursor.setAttribute("d", `M${this.x(x)} ${TOP}V${this.height - BOTTOM}`);
    const table = document.createElement("table");
    for (const { run, number } of this.shown) {
      for (const [label, name] of this.kind.tip) {
        const list = points(run, name, controls.elements.x.value);
        if (!list.length || x > list[list.length - 1].x + 0.01 * this.high) continue;
        const i = locate(list.map((p) => p.x), x), next = list[i + 1];
        const p = next && Math.abs(next.x - x) < Math.abs(list[i].x - x) ? next : list[i];
        const row = table.insertRow();
        const head = document.createElement("th");
        head.innerHTML = `<svg class="swatch ${colour(number, name)} dash${Math.floor(number / 6) % 3}" viewBox="0 0 24 8"><path d="M0 4H24"/></svg>`;
        if (runs.length > 1) head.append(" " + run.name);
        row.append(head);
        for (const text of [label, this.key === "loss" ? p.y.toFixed(4) : short(p.y), `step ${p.step.toLocaleString("en")}`])
          if (text) row.insertCell().textContent = text;
      }
    }
    const head = document.createElement("div");
    head.className = "quiet";
    head.textContent = { tokens: `${short(x)} tokens`, step: `step ${Math.round(x).toLocaleString("en")}`, seconds: time(x) }[controls.elements.x.value];
    this.tip.append(head, table);
    const right = this.x(x) > this.width / 2;
    const room = this.width - this.tip.offsetWidth;
    this.tip.style.left = `${Math.max(0, Math.min(room, this.x(x) + (right ? -12 - this.tip.offsetWidth : 12)))}px`;
  }
}

const charts = [...document.querySelectorAll("[data-chart]")].map((figure) => new Chart(figure));
const losses = runs.flatMap((run) => run["loss.mean"].filter((_, i) => i % 2));
controls.elements.log.checked = losses.length > 0 && Math.min(...losses) > 0 && Math.max(...losses) > 2 * Math.min(...losses);
controls.addEventListener("change", () => charts.forEach((chart) => chart.draw()));
controls.addEventListener("submit", (event) => event.preventDefault());
charts.forEach((chart) => chart.draw());
