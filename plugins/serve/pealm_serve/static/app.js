// The frame: views by the address's #name, the model that they look at, light and dark.

import { api, fail, h } from "./dom.js";
import { create as write } from "./write.js";
import { create as chat } from "./chat.js";
import { create as inside } from "./inside.js";
import { create as compare } from "./compare.js";
import { create as runs } from "./runs.js";

const views = { write, chat, inside, compare, runs };
const made = {};
const $ = (id) => document.getElementById(id);
const app = { models: [], runs: [], get model() { return app.models.find((model) => model.id === $("model").value); } };

function show() {
  const name = location.hash.slice(1) in views ? location.hash.slice(1) : "write";
  for (const [other, view] of Object.entries(made)) if (other !== name) view.hide?.();
  made[name] ??= views[name](app);
  $("view").replaceChildren(made[name].element);
  for (const link of $("nav").children) link.ariaCurrent = link.hash === `#${name}` ? "page" : null;
  document.title = `${name[0].toUpperCase()}${name.slice(1)} · pealm`;
  $("pick").hidden = name === "compare" || name === "runs";
  $("facts").hidden = $("pick").hidden;
  fail(null);
  made[name].show?.();
}

function facts() {
  const { model, parameters, layers, block_size, vocabulary } = app.model;
  const parts = [model, `${parameters.toLocaleString("en")} parameters`, layers ? `${layers} layers` : null];
  parts.push(`context of ${block_size.toLocaleString("en")} tokens`, `vocabulary of ${vocabulary.toLocaleString("en")}`);
  $("facts").textContent = parts.filter(Boolean).join(" · ");
}

function theme(dark) {
  document.documentElement.style.colorScheme = dark ? "dark" : "light";
  $("theme").textContent = dark ? "Light" : "Dark";
  $("theme").setAttribute("aria-label", dark ? "Light theme" : "Dark theme");
  $("theme").onclick = () => {
    localStorage.setItem("theme", dark ? "light" : "dark");
    theme(!dark);
  };
  document.dispatchEvent(new Event("theme"));
}

theme((localStorage.getItem("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark");
document.querySelector(".skip").addEventListener("click", (event) => (event.preventDefault(), $("main").focus()));
try {
  Object.assign(app, await api("view/models"));
  $("model").append(...app.models.map(({ id }) => h("option", {}, id)));
  $("nav").append(...Object.keys(views).map((name) => h("a", { href: `#${name}` }, name[0].toUpperCase() + name.slice(1))));
  $("model").addEventListener("change", () => {
    facts();
    for (const view of Object.values(made)) view.model?.();
  });
  addEventListener("hashchange", show);
  facts();
  show();
} catch (error) {
  fail(error);
}
