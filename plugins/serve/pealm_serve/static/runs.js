// Runs: curves and samples of a run as it trains, by server-sent events.

import { chart, smooth } from "./chart.js";
import { fail, h, stream } from "./dom.js";

export function create(app) {
  let control = null, lines = [], samples = [], state = {}, timer = 0;
  const pick = h("select", {}, app.runs.map((name) => h("option", {}, name)));
  const facts = h("p", { "aria-live": "polite" });
  const charts = h("div", { className: "charts" });
  const texts = h("div", { className: "samples" });
  const element = app.runs.length
    ? h("div", {}, h("label", {}, "Run ", pick), facts, charts, h("section", { "aria-label": "Samples" }, texts))
    : h("p", { className: "quiet" }, "None of the checkpoints belongs to a run's folder: start the server with ",
      "--ckpt runs/NAME.");
  pick.addEventListener("change", follow);
  addEventListener("resize", () => element.isConnected && app.runs.length && draw());

  async function follow() {
    control?.abort();
    const mine = (control = new AbortController());
    [lines, samples, state] = [[], [], {}];
    draw();
    try {
      await stream(`view/runs/${encodeURIComponent(pick.value)}`, undefined, (event) => {
        if (event.restarted) lines = [];
        lines.push(...(event.metrics ?? []));
        samples.push(...(event.samples ?? []));
        state = event.state ?? state;
        clearTimeout(timer);
        timer = setTimeout(draw, 50);
      }, mine.signal);
    } catch (error) {
      if (error.name !== "AbortError") fail(error);
    }
  }

  const column = (key) => lines.filter((line) => typeof line[key] === "number").map((line) => [line.step, line[key]]);

  function draw() {
    const last = lines.at(-1), val = column("val_loss"), best = val.filter(([step]) => step > 0).sort((a, b) => a[1] - b[1])[0];
    const n = (number) => number.toLocaleString("en");
    const parts = [state.status, last && `step ${n(last.step)}`, last && `${n(last.tokens)} tokens`,
      best && `best validation loss ${best[1].toFixed(4)} at step ${n(best[0])}`,
      state.parameters && `${n(state.parameters)} parameters`, state.device && `${state.device}, ${state.dtype}`];
    facts.textContent = parts.filter(Boolean).join(" · ");
    const floor = state.entropy_floor ? [{ name: "entropy floor", y: state.entropy_floor }] : [];
    const noisy = (key, name) => [{ name: "", points: column(key), className: "pale" },
      { name, points: smooth(column(key)), className: "train" }];
    charts.replaceChildren(
      chart("Loss", "nats per token", [...noisy("loss", "training"), { name: "validation", points: val, className: "val" }], floor),
      chart("Learning rate", "", [{ name: "learning rate", points: column("lr"), className: "train" }]),
      chart("Gradient norm", "", noisy("grad_norm", "gradient norm")),
      chart("Speed", "tokens per second", noisy("tokens_per_second", "speed")));
    const sample = ({ step, prompt, text }) => h("article", {}, h("h3", {}, `Step ${n(step)}`),
      h("p", { className: "sample" }, h("b", {}, prompt ?? ""), text ?? ""));
    texts.replaceChildren(...(samples.length ? [h("h2", {}, "Samples")] : []), ...samples.slice(-20).reverse().map(sample));
  }

  return { element, show: () => app.runs.length && follow(), hide: () => control?.abort() };
}
