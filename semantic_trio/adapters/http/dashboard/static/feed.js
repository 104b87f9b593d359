// The feed of frames: connected while the page is open, and again after the server was away.

import { subprotocols } from "./key.js";

const WRONG_KEY = 4401;
const TRY_AGAIN_LATER = 1013;
const RETRY_MS = [500, 1000, 2000, 5000];
// A frame comes every 5 s at the latest.
const SILENCE_MS = 15000;

export class Feed {
  constructor({ onFrame, onAway, onKeyWanted }) {
    Object.assign(this, { onFrame, onAway, onKeyWanted, tries: 0, socket: null, silence: 0 });
  }

  connect() {
    const url = new URL("dashboard/feed", document.baseURI);
    url.protocol = url.protocol.replace("http", "ws");
    this.socket = new WebSocket(url, subprotocols());
    this.socket.onmessage = (event) => this.take(event.data);
    this.socket.onclose = (event) => this.closed(event.code);
    this.watch();
  }

  take(text) {
    this.tries = 0;
    this.watch();
    this.onFrame(JSON.parse(text));
  }

  watch() {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => this.socket.close(), SILENCE_MS);
  }

  async closed(code) {
    clearTimeout(this.silence);
    if (code === WRONG_KEY) {
      this.onKeyWanted();
      return;
    }
    this.onAway(code === TRY_AGAIN_LATER ? "Too many windows look on; trying again" : await phase());
    const wait = RETRY_MS[Math.min(this.tries, RETRY_MS.length - 1)];
    this.tries += 1;
    setTimeout(() => this.connect(), wait);
  }
}

// What the server says of itself while it has no feed: probes are open, and answer while a model is loaded.
async function phase() {
  try {
    const health = await (await fetch("health/startup", { cache: "no-store" })).json();
    return health.status === "ok" ? "Connecting…" : `Starting: ${health.state}`;
  } catch {
    return "The server does not answer; trying again";
  }
}
