// Elements and words. Text is only ever set as text: nothing that a model, an agent or a host is called becomes markup.

export const byId = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export const count = (number) => Math.round(number).toLocaleString("en");

export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let step = 0;
  let rest = bytes;
  while (rest >= 1024 && step < units.length - 1) {
    rest /= 1024;
    step += 1;
  }
  return `${rest >= 100 || step === 0 ? Math.round(rest) : rest.toFixed(1)} ${units[step]}`;
}

// A bar for a share of something; `say` is what a screen reader says of it.
export function bar() {
  const fill = element("div", { className: "fill" });
  const track = element("div", { className: "track" }, fill);
  track.setAttribute("role", "meter");
  track.setAttribute("aria-valuemin", "0");
  track.setAttribute("aria-valuemax", "100");
  const set = (part, whole, name, say) => {
    const percent = whole > 0 ? Math.min(100, (100 * part) / whole) : 0;
    fill.style.width = `${percent}%`;
    fill.classList.toggle("full", percent >= 95);
    track.setAttribute("aria-label", name);
    track.setAttribute("aria-valuenow", String(Math.round(percent)));
    track.setAttribute("aria-valuetext", say);
  };
  return { track, set };
}

// Keep one child per key in a parent, in the order of the items, without touching what has not changed: a focused button stays focused.
export function keyed(parent, items, keyOf, make, update) {
  const known = parent.known ?? (parent.known = new Map());
  const keys = new Set(items.map(keyOf));
  for (const [key, child] of known) {
    if (!keys.has(key)) {
      child.remove();
      known.delete(key);
    }
  }
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  items.forEach((item, place) => {
    const key = keyOf(item);
    if (!known.has(key)) known.set(key, make(item));
    const child = known.get(key);
    if (parent.children[place] !== child) parent.insertBefore(child, parent.children[place] ?? null);
    update(child, item);
  });
  if (focused && focused.isConnected && document.activeElement !== focused) focused.focus();
}
