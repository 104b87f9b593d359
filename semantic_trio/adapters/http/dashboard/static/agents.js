// The table of agents, and why the last turn of one missed its cache.

import { byId, count, element, keyed, setText, size } from "./elements.js";
import { headers } from "./key.js";

const CAUSES = {
  new: "the agent was new",
  diverged: "the prompt differs from its history",
  evicted: "it was evicted for others",
  thinking_changed: "the choice of thinking changed",
  template_changed: "tokenizer or chat template changed",
  other_model: "its memory is another model's",
  no_restore_point: "no snapshot to resume from there",
  corrupt: "its file was damaged",
};
const SOURCES = { none: "", row: "from a running request", ram: "from RAM", disk: "from disk" };

export function showAgents(frame) {
  keyed(byId("agents"), frame.agents, (agent) => agent.id, makeRow, updateRow);
  byId("no-agents").hidden = frame.agents.length > 0;
  const more = frame.agents_total - frame.agents.length;
  byId("more-agents").hidden = more <= 0;
  setText(byId("more-agents"), `and ${count(more)} more, used longer ago: see /v1/agents`);
}

function makeRow(agent) {
  const button = element("button", { type: "button", className: "link name", title: agent.id, textContent: agent.id });
  const row = element("tr", {}, element("td", {}, button));
  row.append(element("td"), ...["Tokens", "RAM", "Disk", "Turns"].map(numberCell), element("td"));
  button.addEventListener("click", () => showTurn(row.agent, button));
  return row;
}

function numberCell(label) {
  const cell = element("td", { className: "number" });
  cell.dataset.label = label; // shown where a narrow window has no head of the table
  return cell;
}

function updateRow(row, agent) {
  row.agent = agent;
  const [, state, tokens, ram, disk, turns, last] = row.children;
  setText(state, agent.pinned ? `${agent.state}, pinned` : agent.state);
  state.className = `state-${agent.state}`;
  setText(tokens, count(agent.tokens));
  setText(ram, size(agent.bytes));
  setText(disk, size(agent.disk_bytes));
  setText(turns, count(agent.turns));
  setText(last, lastTurn(agent.last_turn));
}

function lastTurn(turn) {
  if (!turn) return "none yet";
  const reused = `${count(turn.reused)} of ${count(turn.prompt_tokens)} reused`;
  return turn.cause ? `${reused}: ${CAUSES[turn.cause] ?? turn.cause}` : reused;
}

function showTurn(agent, opener) {
  const panel = byId("turn");
  const turn = agent.last_turn;
  const close = element("button", { type: "button", textContent: "Close" });
  close.addEventListener("click", () => {
    panel.hidden = true;
    opener.focus();
  });
  const parts = [element("h3", { textContent: `Last turn of ${agent.id}` }), element("p", { textContent: story(turn) })];
  const buttons = element("div", { className: "buttons" }, close);
  if (turn && turn.lost > 0) {
    const ask = element("button", { type: "button", textContent: "Show the text where they differ" });
    ask.addEventListener("click", () => showTexts(agent.id, panel, ask));
    buttons.prepend(ask);
  }
  panel.replaceChildren(...parts, buttons);
  panel.hidden = false;
  panel.focus();
}

function story(turn) {
  if (!turn) return "No turn of this agent has ended since the server started.";
  const from = SOURCES[turn.source] ? ` ${SOURCES[turn.source]}` : "";
  const reused = `${count(turn.reused)} of ${count(turn.prompt_tokens)} tokens of the prompt were reused${from}.`;
  if (!turn.cause) return `${reused} Nothing that was known was missed.`;
  const lost = turn.lost ? ` ${count(turn.lost)} tokens of its history were not used.` : "";
  return `${reused} Why no more: ${CAUSES[turn.cause] ?? turn.cause}.${lost}`;
}

// Conversations are private: their text is fetched when somebody asks for it, and not before.
async function showTexts(id, panel, button) {
  button.disabled = true;
  const answer = await fetch(`v1/agents/${encodeURIComponent(id)}/last-turn`, { headers: headers() });
  const turn = await answer.json();
  const shown = answer.ok ? texts(turn) : [element("p", { textContent: turn.error?.message ?? `HTTP ${answer.status}` })];
  panel.insertBefore(element("div", {}, ...shown), panel.lastElementChild);
  button.remove();
  panel.focus();
}

function texts(turn) {
  if (turn.left_at === null) return [element("p", { textContent: "The prompt does not differ from the history." })];
  return [
    element("p", { textContent: `They differ at token ${count(turn.left_at)}. In the history:` }),
    element("pre", { textContent: turn.stored_text }),
    element("p", { textContent: "In the prompt:" }),
    element("pre", { textContent: turn.prompt_text }),
  ];
}
