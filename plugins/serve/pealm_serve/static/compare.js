// Compare: two checkpoints side by side on one prompt and seed, or every checkpoint of a run: watch it learn.

import { bits, h, legend, runner, sliders, stream, tokenRow } from "./dom.js";

export function create(app) {
  const sources = app.models.map(({ id }) => ({ label: id, model: id }));
  const byRun = new Map();
  for (const { id, steps } of app.models) {
    const label = (step) => `${id}, step ${Number(step.slice("step-".length)).toLocaleString("en")}`;
    const found = steps.map((step) => ({ label: label(step), model: id, step }));
    sources.push(...found);
    if (found.length > 1) byRun.set(id, found);
  }
  const select = (label, chosen) => {
    const found = h("select", {}, sources.map((source, i) => h("option", { value: i }, source.label)));
    found.value = Math.min(chosen, sources.length - 1);
    return { found, row: h("label", {}, label, " ", found) };
  };
  const first = select("Left", 0), second = select("Right", 1);
  const prompt = h("textarea", { rows: 2, id: "same", spellcheck: false });
  const settings = sliders(() => {}, { tokens: 80 });
  settings.element.querySelector("[name=seed]").value = 1;
  const cards = h("div", { className: "cards", "aria-live": "polite" });
  const both = runner("Write both", (signal) => all([first, second].map(({ found }) => sources[found.value]), signal));
  const learns = [...byRun].map(([id, steps]) => runner(`Watch ${id} learn`, (signal) => all(steps, signal), { className: "" }));
  const element = h("div", { className: "split" },
    h("section", { "aria-label": "Texts" },
      h("div", { className: "buttons" }, first.row, second.row),
      h("label", { htmlFor: "same" }, "Prompt"), prompt,
      h("div", { className: "buttons" }, both.button, ...learns.map(({ button }) => button)), cards, legend()),
    h("section", { "aria-label": "Settings" }, settings.element));

  /** One after the other, so that a slow machine shows a text at a time. */
  async function all(chosen, signal) {
    const { seed, ...rest } = settings.values();
    const sampling = { ...rest, seed: seed ?? Math.floor(2 ** 31 * Math.random()) };
    cards.replaceChildren();
    const places = chosen.map(({ label }) => {
      const row = tokenRow(`Text of ${label}`), note = h("p", { className: "quiet" }, "waits");
      cards.append(h("article", {}, h("h2", {}, label), row.element, note));
      return { row, note };
    });
    for (const [number, { model, step }] of chosen.entries()) {
      const { row, note } = places[number];
      let count = 0, total = 0;
      note.textContent = "writes …";
      try {
        await stream("view/write", { model, step, text: prompt.value, n: settings.n(), sampling }, (token) => {
          if (token.ended) return;
          row.add(token);
          if (token.given) return;
          count += 1;
          total += bits(token.logprob);
        }, signal);
      } finally {
        note.textContent = count ? `${count} tokens, ${(total / count).toFixed(2)} bits each on average` : "nothing written";
      }
    }
  }

  return { element, hide: () => [both, ...learns].forEach(({ stop }) => stop()) };
}
