// The batch, the bars and the models.

import { bar, byId, count, element, keyed, setText, size } from "./elements.js";

export function showBatch(frame) {
  const sum = (name) => frame.models.reduce((total, model) => total + model[name], 0);
  setText(byId("running"), count(sum("rows")));
  setText(byId("waiting"), count(sum("waiting")));
  setText(byId("live"), count(frame.agents_live));
  setText(byId("agents-total"), `of ${count(frame.agents_total)} agents in a turn`);
  keyed(byId("rows"), frame.rows.map((row, place) => ({ ...row, place })), (row) => row.place, makeRow, updateRow);
}

function makeRow() {
  const { track, set } = bar();
  const row = element("div", { className: "row" });
  row.append(element("span", { className: "name" }), element("span"), track, element("span", { className: "count" }));
  row.set = set;
  return row;
}

function updateRow(row, request) {
  const isReading = request.phase === "prefilling";
  const [part, whole] = isReading ? [request.read_tokens, request.prompt_tokens] : [request.generated_tokens, request.max_tokens];
  const text = `${count(part)} of ${isReading ? "" : "at most "}${count(whole)}`;
  const [name, phase, , figures] = row.children;
  setText(name, request.agent || "no agent");
  name.title = request.agent;
  const doing = isReading ? "reading" : request.phase === "decoding" ? "writing" : request.phase;
  setText(phase, request.priority === "background" ? `${doing}, background` : doing);
  setText(figures, text);
  row.set(part, whole, `${request.agent}, ${request.phase}`, text);
}

export function showBars(frame) {
  const several = frame.models.length > 1;
  const bars = frame.models.flatMap((model) => barsOf(model).map((one) => ({ ...one, name: several ? `${model.id}: ${one.name}` : one.name })));
  keyed(byId("bars"), bars, (one) => one.name, makeBar, updateBar);
}

function barsOf(model) {
  const { pool, disk } = model;
  const bars = [
    { name: "Batch", part: model.rows, whole: model.most_rows, text: `${count(model.rows)} of ${count(model.most_rows)} rows` },
    { name: "Queue", part: model.waiting, whole: model.most_waiting, text: queueText(model) },
    { name: "Pool in RAM", part: pool.used, whole: pool.total, text: `${size(pool.used)} of ${size(pool.total)}` },
  ];
  if (disk.total > 0) bars.push({ name: "Disk", part: disk.used, whole: disk.total, text: diskText(disk) });
  return bars;
}

function queueText(model) {
  const text = `${count(model.waiting)} of ${count(model.most_waiting)} requests`;
  return model.waiting_in_background ? `${text}, ${count(model.waiting_in_background)} in the background` : text;
}

function diskText(disk) {
  const used = `${size(disk.used)} of ${size(disk.total)}`;
  if (!disk.accepts_writes) return `${used}, takes no writes`;
  return disk.waiting ? `${used}, ${count(disk.waiting)} to write` : used;
}

function makeBar(one) {
  const { track, set } = bar();
  const head = element("div", { className: "bar-head" }, element("span", { textContent: one.name }), element("span"));
  const made = element("div", {}, head, track);
  made.set = set;
  made.text = head.lastElementChild;
  return made;
}

function updateBar(node, one) {
  setText(node.text, one.text);
  node.set(one.part, one.whole, one.name, one.text);
}

export function showModels(frame) {
  const lines = frame.models.flatMap((model) => [
    ["Model", model.id],
    ["State", model.state],
    ["Context", `${count(model.context_length)} tokens`],
    ["Layout", model.layout],
    ["Generated", `${count(model.tokens_generated)} tokens since the start`],
    ["Snapshots", size(model.pool.snapshots)],
  ]);
  const more = frame.models_total - frame.models.length;
  if (more > 0) lines.push(["And", `${count(more)} more: see /v1/models`]);
  const numbered = lines.flatMap(([name, text], place) => [
    { key: `${place}t`, tag: "dt", text: name },
    { key: `${place}d`, tag: "dd", text },
  ]);
  keyed(byId("models"), numbered, (one) => one.key, (one) => element(one.tag), (node, one) => setText(node, one.text));
}
