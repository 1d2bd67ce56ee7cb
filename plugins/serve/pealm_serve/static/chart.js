// A line chart as SVG: axes with round numbers, any number of series, a value under the pointer.

import { h, svg } from "./dom.js";

const [H, LEFT, RIGHT, TOP, BOTTOM] = [240, 52, 12, 12, 30];
const short = (x) => (Math.abs(x) >= 1e6 ? `${+(x / 1e6).toPrecision(3)}M` : Math.abs(x) >= 1e4 ? `${+(x / 1e3).toPrecision(3)}k` : `${+x.toPrecision(3)}`);

function ticks(low, high, count) {
  const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const found = [];
  for (let x = Math.ceil(low / step) * step; x <= high + 1e-9 * step; x += step) found.push(x);
  return found;
}

/** series: [{ name, points: [[x, y], ...], className }]. lines: [{ name, y }], horizontal. */
export function chart(title, unit, series, lines = []) {
  const W = Math.max(280, Math.min(640, innerWidth - 60)); // so that text has its size on a narrow screen
  const points = series.flatMap((one) => one.points);
  if (!points.length) return h("figure", { hidden: true });
  const xs = points.map(([x]) => x), ys = [...points.map(([, y]) => y), ...lines.map(({ y }) => y)];
  const range = (values) => values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
  const [x0, x1] = range(xs), [low, high] = range(ys), pad = 0.05 * (high - low) || 0.05 * Math.abs(high) || 1;
  const [y0, y1] = [low - pad, high + pad];
  const X = (x) => LEFT + ((x - x0) / (x1 - x0 || 1)) * (W - LEFT - RIGHT), Y = (y) => H - BOTTOM - ((y - y0) / (y1 - y0)) * (H - TOP - BOTTOM);
  const last = series.filter((one) => one.points.length).map((one) => `${one.name} ${short(one.points.at(-1)[1])}`);
  const picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${title} by step, last values: ${last.join(", ")} ${unit}` });
  for (const y of ticks(y0, y1, 4)) {
    picture.append(svg("line", { class: "grid", x1: LEFT, x2: W - RIGHT, y1: Y(y), y2: Y(y) }), svg("text", { x: LEFT - 6, y: Y(y) + 4, "text-anchor": "end" }, short(y)));
  }
  for (const x of ticks(x0, x1, W / 100)) picture.append(svg("text", { x: X(x), y: H - 10, "text-anchor": "middle" }, short(x)));
  for (const { y } of lines) picture.append(svg("line", { class: "floor", x1: LEFT, x2: W - RIGHT, y1: Y(y), y2: Y(y) }));
  for (const one of series) {
    const d = one.points.map(([x, y], i) => `${i ? "L" : "M"}${X(x).toFixed(1)} ${Y(y).toFixed(1)}`).join("");
    picture.append(svg("path", { d, class: one.className }));
    if (one.points.length < 40 && one.className === "val") for (const [x, y] of one.points) picture.append(svg("circle", { class: "val", cx: X(x), cy: Y(y), r: 3 }));
  }
  const cursor = svg("line", { class: "cursor", y1: TOP, y2: H - BOTTOM, x1: -9, x2: -9 }), value = h("span", { className: "quiet" });
  picture.append(cursor);
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect(), x = x0 + ((((event.clientX - box.left) / box.width) * W - LEFT) / (W - LEFT - RIGHT)) * (x1 - x0);
    const nearest = series.filter((one) => one.points.length).map((one) => [one.name, one.points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a))]);
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, X(nearest[0][1][0]));
    value.textContent = `step ${nearest[0][1][0].toLocaleString("en")}: ${nearest.map(([name, [, y]]) => `${name} ${short(y)}`).join(", ")}`;
  });
  const keys = [...series.filter((one) => one.points.length), ...lines.map(({ name, y }) => ({ name: `${name} ${short(y)}`, className: "floor" }))];
  return h("figure", {}, h("figcaption", {}, h("b", {}, title), ` ${unit} `, ...keys.map((one) => h("span", { className: `key ${one.className}` }, one.name)), value), picture);
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
