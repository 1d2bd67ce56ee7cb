// Write: text as it comes, coloured by surprise; any token can be replaced by another one, which grows a branch.

import { api, bits, fail, h, legend, percent, runner, shown, sliders, spoken, stream, tokenRow } from "./dom.js";

export function create(app) {
  const root = () => ({ id: null, text: "", logprob: null, parent: null, children: [] });
  let tree = root(), end = tree; // the text is the path from the root to the end
  let place = null; // the token whose alternatives are shown; null: what may follow the end
  let asked = null, timer = 0, ended = false;

  const path = (node) => {
    const nodes = [];
    for (; node.parent; node = node.parent) nodes.unshift(node);
    return nodes;
  };
  const child = (parent, token) => {
    let node = parent.children.find(({ id }) => id === token.id);
    if (!node) parent.children.push((node = { ...root(), ...token, parent, children: [] }));
    return node;
  };

  const prompt = h("textarea", { rows: 3, id: "prompt", spellcheck: false, value: "" });
  const row = tokenRow("Text, token by token", { onselect: (index) => look(path(end)[index]) });
  const settings = sliders(() => likeliest(150));
  const title = h("h2", { id: "likeliest" });
  const note = h("p", { className: "quiet" });
  const bars = h("ol", { className: "bars", "aria-labelledby": "likeliest" });
  const mean = h("p", { className: "quiet", "aria-live": "polite" });
  const branches = h("div", { className: "branches" });
  const fromPrompt = runner("Write", async (signal) => {
    go.stop();
    await read();
    await grow(signal);
  });
  const go = runner("Continue", grow, { className: "" });
  const clear = h("button", { type: "button", onclick: () => (stop(), (tree = root()), draw((end = tree))) }, "Clear");
  const element = h("div", { className: "split" },
    h("section", { "aria-label": "Text" },
      h("label", { htmlFor: "prompt" }, "Prompt"), prompt,
      h("div", { className: "buttons" }, fromPrompt.button, go.button, clear),
      row.element, legend(), mean, h("h2", {}, "Branches"), branches),
    h("section", { "aria-label": "Next token" }, settings.element, title, note, bars));
  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) fromPrompt.run();
  });

  const stop = () => (fromPrompt.stop(), go.stop());

  /** Walk from the root along the prompt's tokens. */
  async function read() {
    const { tokens } = await api("view/encode", { model: app.model.id, text: prompt.value });
    let node = tree;
    for (const token of tokens) node = child(node, { ...token, given: true });
    draw((end = node));
  }

  async function grow(signal) {
    if (end === tree) await read();
    const body = { model: app.model.id, ids: path(end).map(({ id }) => id), n: settings.n(), sampling: settings.values() };
    place = null;
    row.select(-1, false);
    ended = false;
    try {
      await stream("view/write", body, (token) => {
        if (token.ended) return (ended = true);
        end = child(end, token);
        row.add(end);
      }, signal);
    } finally {
      draw(end);
    }
  }

  function draw() {
    const nodes = path(end), known = nodes.filter(({ logprob, given }) => logprob !== null && !given);
    row.set(nodes);
    const total = known.reduce((sum, { logprob }) => sum + bits(logprob), 0);
    const average = `${known.length} tokens written, ${(total / known.length).toFixed(2)} bits each on average`;
    mean.textContent = known.length ? average + (ended ? "; the model ended the text" : "") : "";
    ended = false;
    const none = h("p", { className: "quiet" }, "Choose another token, or write again: each text stays here.");
    branches.replaceChildren(list(tree) ?? none);
    look(null);
  }

  /** A node's descendants as nested lists; a chain without forks is one item. */
  function list(node) {
    if (!node.children.length) return null;
    return h("ul", {}, node.children.map((first) => {
      let last = first, text = first.text;
      while (last.children.length === 1) text += (last = last.children[0]).text;
      const here = path(end).includes(first), current = last === end || (here && !last.children.length);
      const label = text.length > 90 ? `${text.slice(0, 60)} … ${text.slice(-25)}` : text;
      return h("li", {}, h("button", { type: "button", className: here ? "here" : "", "aria-current": current ? "true" : null,
        onclick: () => (stop(), (end = leaf(last)), draw()) }, label || "␣"), list(last));
    }));
  }
  const leaf = (node) => (node.children.length ? leaf(node.children[0]) : node);

  /** Show the alternatives to a token, or what may follow the end. */
  function look(node) {
    place = node;
    likeliest(0);
  }

  function likeliest(wait) {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      asked?.abort();
      asked = new AbortController();
      const before = place ? place.parent : end;
      const ids = path(before).map(({ id }) => id);
      const body = { model: app.model.id, ids, sampling: settings.values(), token: place?.id ?? null };
      try {
        const found = await api("view/next", body, asked.signal);
        title.textContent = place ? `Instead of “${shown(place.text)}”` : "What may come next";
        note.textContent = `${found.bits.toFixed(2)} bits of entropy; ${found.kept.toLocaleString("en")} of ` +
          `${found.vocabulary.toLocaleString("en")} tokens can be drawn. Frame: the model; bar: with these settings.`;
        const most = Math.max(...found.tokens.flatMap(({ p, q }) => [p, q]));
        bars.replaceChildren(...found.tokens.map((token) => bar(token, before, most)));
      } catch (error) {
        if (error.name !== "AbortError") fail(error);
      }
    }, wait);
  }

  function bar(token, before, most) {
    const chosen = place?.id === token.id;
    const about = `${spoken(token.text)}: ${percent(token.p)}, with these settings ${token.q ? percent(token.q) : "never"}`;
    const p = h("i", { className: "p" }), q = h("i", { className: "q" });
    p.style.width = `${(100 * token.p) / most}%`;
    q.style.width = `${(100 * token.q) / most}%`;
    const props = { type: "button", "aria-label": about, title: `rank ${token.rank}`, onclick: () => choose(token, before) };
    return h("li", {}, h("button", { ...props, "aria-current": chosen ? "true" : null },
      h("b", {}, shown(token.text)), h("span", { className: "bar" }, p, q), h("span", {}, token.q ? percent(token.q) : "–")));
  }

  async function choose(token, before) {
    stop();
    end = child(before, { id: token.id, text: token.text, logprob: Math.log(token.p) });
    draw();
    await go.run();
  }

  const start = () => ((tree = root()), draw((end = tree)));
  start();
  return { element, model: () => (stop(), start()), hide: stop };
}
