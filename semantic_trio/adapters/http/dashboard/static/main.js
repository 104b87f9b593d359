// The page: what a frame is shown as, and what happens without one.

import { showAgents } from "./agents.js";
import { startChat } from "./chat.js";
import { byId, setText } from "./elements.js";
import { Feed } from "./feed.js";
import { showBars, showBatch, showModels } from "./figures.js";
import { keep } from "./key.js";
import { showSnippets } from "./snippets.js";
import { Speed } from "./speed.js";
import { startTheme } from "./theme.js";

const speed = new Speed();
let model = null;

function onFrame({ at, frame }) {
  const total = (name) => frame.models.reduce((sum, one) => sum + one[name], 0);
  speed.take(at, total("tokens_generated"), total("rows"));
  setText(byId("version"), frame.version);
  const main = frame.models[0] ?? { id: "default", state: "running" }; // none is loaded before a request names one
  showState(main.state, frame.models.length > 0 ? `${main.id} is ${main.state}` : "No model is loaded");
  byId("key-form").hidden = true;
  setText(byId("speed"), speed.now.toFixed(speed.now < 100 ? 1 : 0));
  showBatch(frame);
  showBars(frame);
  showModels(frame);
  showAgents(frame);
  if (main.id !== model) {
    model = main.id;
    showSnippets(model.endsWith("…") ? "default" : model);
  }
}

function showState(state, text) {
  document.querySelector("#status .dot").dataset.state = state;
  setText(byId("status-text"), text);
}

function onKeyWanted() {
  showState("away", "Waiting for the key");
  byId("key-form").hidden = false;
  byId("key").focus();
}

const feed = new Feed({
  onFrame,
  onAway: (text) => showState(text.startsWith("Starting") ? "starting" : "away", text),
  onKeyWanted,
});

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keep(byId("key").value);
  byId("key").value = "";
  feed.connect();
});

setInterval(() => {
  speed.tick();
  document.querySelector("#spark polyline").setAttribute("points", speed.points(240, 48));
}, 1000);

startTheme();
startChat();
feed.connect();
