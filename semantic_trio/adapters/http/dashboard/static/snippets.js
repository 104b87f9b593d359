// How to use the server from elsewhere.

import { byId, element } from "./elements.js";

const QUESTION = "What is the capital of France?";

export function showSnippets(model) {
  const base = new URL(".", document.baseURI).href.replace(/\/$/, "");
  const body = JSON.stringify({ model, max_tokens: 64, messages: [{ role: "user", content: QUESTION }] });
  const snippets = {
    "In a terminal": `curl ${base}/v1/chat/completions -H 'content-type: application/json' -d ${quoted(body)}`,
    "In Python, with the package openai":
      `import openai\n\nclient = openai.OpenAI(base_url=${JSON.stringify(`${base}/v1`)}, api_key="local")\n` +
      `messages = [{"role": "user", "content": ${JSON.stringify(QUESTION)}}]\n` +
      `print(client.chat.completions.create(model=${JSON.stringify(model)}, messages=messages).choices[0].message.content)`,
    "With Claude Code": `semantic-trio claude --url ${base} --run`,
  };
  const shown = Object.entries(snippets).flatMap(([title, text]) => [element("h3", { textContent: title }), element("pre", { textContent: text })]);
  byId("snippets").replaceChildren(...shown);
}

const quoted = (text) => `'${text.replaceAll("'", `'"'"'`)}'`;
