// A line chart as SVG: axes with round numbers, any number of series, a value under the pointer.

import { h, svg } from "./dom.js";

const [HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [240, 52, 12, 12, 30];
const digits = (x) => `${+x.toPrecision(3)}`;
const short = (x) => (Math.abs(x) >= 1e6 ? `${digits(x / 1e6)}M` : Math.abs(x) >= 1e3 ? `${digits(x / 1e3)}k` : digits(x));

function ticks(low, high, count) {
  const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const found = [];
  for (let x = Math.ceil(low / step) * step; x <= high + 1e-9 * step; x += step) found.push(x);
  return found;
}

const range = (values) => values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);

/** series: [{ name, points: [[x, y], ...], className }]. lines: [{ name, y }], horizontal. */
export function chart(title, unit, series, lines = []) {
  const drawn = series.filter((one) => one.points.length), points = drawn.flatMap((one) => one.points);
  if (!points.length) return h("figure", { hidden: true });
  const width = Math.max(280, Math.min(640, innerWidth - 60)); // so that text has its size on a narrow screen
  const [x0, x1] = range(points.map(([x]) => x));
  const [low, high] = range([...points.map(([, y]) => y), ...lines.map(({ y }) => y)]);
  const pad = 0.05 * (high - low) || 0.05 * Math.abs(high) || 1, [y0, y1] = [low - pad, high + pad];
  const inner = width - LEFT - RIGHT;
  const X = (x) => LEFT + ((x - x0) / (x1 - x0 || 1)) * inner;
  const Y = (y) => HEIGHT - BOTTOM - ((y - y0) / (y1 - y0)) * (HEIGHT - TOP - BOTTOM);
  const last = drawn.filter(({ name }) => name).map(({ name, points }) => `${name} ${short(points.at(-1)[1])}`);
  const label = `${title} by step, last values: ${last.join(", ")} ${unit}`;
  const picture = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label });
  const level = (y, name) => svg("line", { class: name, x1: LEFT, x2: width - RIGHT, y1: Y(y), y2: Y(y) });
  for (const y of ticks(y0, y1, 4)) {
    picture.append(level(y, "grid"), svg("text", { x: LEFT - 6, y: Y(y) + 4, "text-anchor": "end" }, short(y)));
  }
  for (const x of ticks(x0, x1, width / 100)) {
    picture.append(svg("text", { x: X(x), y: HEIGHT - 10, "text-anchor": "middle" }, short(x)));
  }
  picture.append(...lines.map(({ y }) => level(y, "floor")));
  for (const { points, className } of drawn) {
    const d = points.map(([x, y], i) => `${i ? "L" : "M"}${X(x).toFixed(1)} ${Y(y).toFixed(1)}`).join("");
    picture.append(svg("path", { d, class: className }));
    if (points.length >= 40 || className !== "val") continue;
    picture.append(...points.map(([x, y]) => svg("circle", { class: "val", cx: X(x), cy: Y(y), r: 3 })));
  }
  const cursor = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, x1: -9, x2: -9 });
  const value = h("span", { className: "quiet" });
  picture.append(cursor);
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const x = x0 + (((event.clientX - box.left) / box.width) * width - LEFT) * ((x1 - x0) / inner);
    const nearer = (a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a);
    const named = drawn.filter(({ name }) => name).map(({ name, points }) => [name, points.reduce(nearer)]);
    const step = named[0][1][0];
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, X(step));
    value.textContent = `step ${step.toLocaleString("en")}: ${named.map(([name, [, y]]) => `${name} ${short(y)}`).join(", ")}`;
  });
  const keys = [...drawn, ...lines.map(({ name, y }) => ({ name: `${name} ${short(y)}`, className: "floor" }))];
  const key = ({ name, className }) => h("span", { className: `key ${className}` }, name);
  return h("figure", {}, h("figcaption", {}, h("b", {}, title), ` ${unit} `, keys.map(key), value), picture);
}

/** A running mean over a fiftieth of the points to both sides. */
export function smooth(points) {
  const reach = Math.floor(points.length / 50), sums = [0];
  for (const [, y] of points) sums.push(sums.at(-1) + y);
  return points.map(([x], i) => {
    const half = Math.min(reach, i), from = i - half, to = Math.min(i + half + 1, points.length);
    return [x, (sums[to] - sums[from]) / (to - from)];
  });
}
