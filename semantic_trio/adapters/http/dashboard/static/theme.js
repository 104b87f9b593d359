// Dark or light: as the system says, or as chosen here.

import { byId, setText } from "./elements.js";

const NAME = "semantic-trio.theme";
const THEMES = ["auto", "dark", "light"];

export function startTheme() {
  show(localStorage.getItem(NAME) ?? "auto");
  byId("theme").addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(localStorage.getItem(NAME) ?? "auto") + 1) % THEMES.length];
    localStorage.setItem(NAME, next);
    show(next);
  });
}

function show(theme) {
  document.documentElement.dataset.theme = theme;
  setText(byId("theme"), `Theme: ${theme}`);
}
