// Compare: two checkpoints side by side on one prompt and seed, or every checkpoint of a run: watch it learn.

import { api, bits, h, legend, runner, sliders, stream, tokenRow } from "./dom.js";

export function create(app) {
  let sources = [];
  const [first, second] = [h("select"), h("select")], learns = h("span", { className: "buttons" });
  const prompt = h("textarea", { rows: 2, id: "same", spellcheck: false });
  const settings = sliders(() => {}, { tokens: 80 });
  settings.element.querySelector("[name=seed]").value = 1;
  const cards = h("div", { className: "cards", "aria-live": "polite" });
  const both = runner("Write both", (signal) => all([first, second].map(({ value }) => sources[value]), signal));
  let watching = [];
  const element = h("div", { className: "split" },
    h("section", { "aria-label": "Texts" },
      h("div", { className: "buttons" }, h("label", {}, "Left ", first), h("label", {}, "Right ", second)),
      h("label", { htmlFor: "same" }, "Prompt"), prompt,
      h("div", { className: "buttons" }, both.button, learns), cards, legend()),
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

  function offer() {
    const label = (id, step) => `${id}, step ${Number(step.slice("step-".length)).toLocaleString("en")}`;
    const stepsOf = ({ id, steps }) => steps.map((step) => ({ label: label(id, step), model: id, step }));
    const chosen = [first, second].map(({ value }, i) => sources[value]?.label ?? (app.models[i] ?? app.models[0]).id);
    sources = app.models.flatMap((model) => [{ label: model.id, model: model.id }, ...stepsOf(model)]);
    [first, second].forEach((select, i) => {
      select.replaceChildren(...sources.map((source, i) => h("option", { value: i }, source.label)));
      select.value = Math.max(0, sources.findIndex((source) => source.label === chosen[i]));
    });
    const runs = app.models.filter(({ steps }) => steps.length > 1);
    watching = runs.map((model) => runner(`Watch ${model.id} learn`, (signal) => all(stepsOf(model), signal), { className: "" }));
    learns.replaceChildren(...watching.map(({ button }) => button));
  }

  /** Offer what there is now: a run that is training has more checkpoints. */
  async function show() {
    Object.assign(app, await api("view/models").catch(() => ({})));
    offer();
  }

  offer();
  return { element, show, hide: () => [both, ...watching].forEach(({ stop }) => stop()) };
}
