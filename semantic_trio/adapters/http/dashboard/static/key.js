// The API key: kept for this tab, sent to this server alone.

const NAME = "semantic-trio.key";

export const key = () => sessionStorage.getItem(NAME);
export const keep = (value) => sessionStorage.setItem(NAME, value);
export const headers = () => (key() ? { "x-api-key": key() } : {});

// A WebSocket has no headers that a page could set: the key is offered as a subprotocol, whose characters are those of a token.
export function subprotocols() {
  const names = ["semantic-trio.frames"];
  if (key()) names.push(`key.${base64url(key())}`);
  return names;
}

function base64url(text) {
  const bytes = String.fromCharCode(...new TextEncoder().encode(text));
  return btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
