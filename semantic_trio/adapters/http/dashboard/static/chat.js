// A conversation with the model, through /v1/chat/completions, streamed. It is kept in this page alone.

import { byId, element, setText } from "./elements.js";
import { headers } from "./key.js";

const messages = [];
let running = null; // the AbortController of the answer that is being written

export function startChat() {
  byId("chat-form").addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  byId("message").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      byId("chat-form").requestSubmit();
    }
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && running?.abort());
  byId("stop").addEventListener("click", () => running?.abort());
  byId("clear").addEventListener("click", clear);
}

function clear() {
  running?.abort();
  messages.length = 0;
  byId("log").replaceChildren();
  byId("message").focus();
}

async function ask() {
  const text = byId("message").value.trim();
  if (!text || running) return;
  byId("message").value = "";
  messages.push({ role: "user", content: text });
  say("You", text);
  const answer = say("Model", "");
  begin();
  try {
    await stream(answer);
  } catch (error) {
    if (error.name !== "AbortError") fail(answer, error.message);
  } finally {
    keep(answer);
    end();
  }
}

function begin() {
  running = new AbortController();
  byId("log").setAttribute("aria-busy", "true");
  byId("stop").hidden = false;
  byId("send").disabled = true;
}

function end() {
  running = null;
  byId("log").setAttribute("aria-busy", "false");
  byId("stop").hidden = true;
  byId("send").disabled = false;
}

// A question without an answer is not asked again with the next one.
function keep(answer) {
  if (!answer.said) messages.pop();
  else messages.push({ role: "assistant", content: answer.said });
}

async function stream(answer) {
  const began = performance.now();
  const body = { model: "default", messages, stream: true, stream_options: { include_usage: true } };
  const options = { method: "POST", headers: { "content-type": "application/json", ...headers() }, body: JSON.stringify(body), signal: running.signal };
  const response = await fetch("v1/chat/completions", options);
  if (!response.ok) throw new Error((await response.json()).error?.message ?? `HTTP ${response.status}`);
  let first = 0;
  for await (const event of events(response.body)) {
    if (event.error) throw new Error(event.error.message);
    const delta = event.choices?.[0]?.delta;
    if (delta?.reasoning_content) add(answer.thought, delta.reasoning_content);
    if (delta?.content) {
      add(answer.text, delta.content);
      answer.said += delta.content;
    }
    first ||= delta?.content || delta?.reasoning_content ? performance.now() : 0;
    if (event.usage) note(event.usage, first - began, performance.now() - began);
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

function say(speaker, text) {
  const [thought, spoken] = [element("span", { className: "thought" }), element("span", { textContent: text })];
  const paragraph = element("p", { className: "said" }, element("b", { textContent: speaker }), thought, spoken);
  byId("log").append(paragraph);
  scroll();
  return { paragraph, thought, text: spoken, said: "" };
}

function add(node, text) {
  node.append(text);
  scroll();
}

function scroll() {
  const log = byId("log");
  log.scrollTop = log.scrollHeight;
}

function fail(answer, message) {
  answer.paragraph.classList.add("error");
  add(answer.text, `\n${message}`);
}

function note(usage, firstMs, allMs) {
  const tokens = usage.completion_tokens;
  const rate = tokens > 1 && allMs > firstMs ? `, ${((1000 * (tokens - 1)) / (allMs - firstMs)).toFixed(1)} a second` : "";
  setText(byId("chat-note"), `${tokens} tokens${rate}; the first after ${(firstMs / 1000).toFixed(2)} s. The conversation is kept in this page alone.`);
}
