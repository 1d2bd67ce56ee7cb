// Chat, by OpenAI's protocol as other programs use it.

import { h, runner, sliders, stream } from "./dom.js";

export function create(app) {
  let messages = [];
  const log = h("div", { className: "log", role: "log", "aria-label": "Conversation", tabIndex: 0 });
  const settings = sliders(() => {}, { tokens: 200, most: 1000 });
  const input = h("textarea", { rows: 2, "aria-label": "Your message", placeholder: "Your message" });
  const send = runner("Send", async (signal) => {
    const content = input.value.trim();
    if (!content) return;
    input.value = "";
    say("user", content);
    const answer = say("assistant", "");
    const chosen = Object.entries(settings.values()).filter(([, value]) => value !== null);
    const body = { model: app.model.id, messages: messages.slice(0, -1), stream: true, max_tokens: settings.n() };
    Object.assign(body, Object.fromEntries(chosen));
    try {
      await stream("v1/chat/completions", body, (event) => {
        const piece = event.choices[0]?.delta?.content ?? "", { dropped_turns: turns, cut_tokens: cut } = event.pealm ?? {};
        if (turns) answer.note(`The context is full: the ${turns} oldest messages are left out.`);
        if (cut) answer.note(`Your message is too long for the context: its first ${cut} tokens are left out.`);
        answer.message.content += piece;
        answer.text.textContent += piece;
        log.scrollTop = log.scrollHeight;
      }, signal);
    } catch (error) {
      if (!answer.message.content) {
        messages = messages.slice(0, -2);
        for (let i = 0; i < 2; i++) log.lastChild.remove();
        input.value = content;
      }
      throw error;
    }
  });
  const again = h("button", { type: "button", onclick: () => reset() }, "New conversation");
  const none = h("p", { className: "quiet" }, "This checkpoint has no chat layout: it was not trained on conversations. ",
    "Write, Inside and Compare work.");
  const talk = h("section", { className: "talk", "aria-label": "Chat" }, log,
    h("div", {}, input, h("div", { className: "buttons" }, send.button, again)));
  const element = h("div", { className: "split" });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      if (!send.running) send.run();
    }
  });

  function say(role, content) {
    const message = { role, content }, text = h("p", {}, content);
    messages.push(message);
    log.append(h("div", { className: `turn ${role}` }, h("h2", {}, role === "user" ? "You" : "Model"), text));
    log.scrollTop = log.scrollHeight;
    return { message, text, note: (line) => text.before(h("p", { className: "quiet note" }, line)) };
  }

  function reset() {
    send.stop();
    messages = [];
    log.replaceChildren();
    element.replaceChildren(...(app.model.chat ? [talk, h("section", { "aria-label": "Settings" }, settings.element)] : [none]));
  }

  reset();
  return { element, model: reset, show: () => app.model.chat && input.focus(), hide: send.stop };
}
