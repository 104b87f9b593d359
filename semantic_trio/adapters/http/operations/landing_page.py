"""The page at `/` for people who open the server's address in a browser: which model is served, and how to use it.

Knows HTML. The page is self-contained: it loads nothing, runs nothing, and escapes everything it shows.
"""

import base64
import hashlib
import html
import json
import shlex

from quart import Response

from semantic_trio.adapters.http.serving.served_model import ModelCard

QUESTION = "What is the capital of France?"
# Paths worth opening in a browser, each with a description.
LINKS = {
    "/v1/agents": "agents, with what each has in memory",
    "/v1/models": "models",
    "/metrics": "metrics, for Prometheus",
    "/health/ready": "health",
    "/openapi.json": "the API, for machines",
}
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:46em;margin:2em auto;padding:0 1em;color:#222;background:#fff}"
    "pre{background:#f4f4f4;padding:1em;overflow-x:auto}h2{font-size:1.1em;margin-top:2em}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#1b1b1b}pre{background:#2a2a2a}a{color:#8ab4f8}}"
)
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "vary": "accept",
}


def page(card: ModelCard, version: str, authority: str) -> Response:
    """Return the page of a server that the browser reached by an authority such as `localhost:8000`."""
    response = Response(_document(card, version, f"http://{authority}"), content_type="text/html; charset=utf-8")
    response.headers.extend(HEADERS)
    return response


def _document(card: ModelCard, version: str, url: str) -> str:
    links = "".join(f'<li><a href="{path}">{path}</a>: {html.escape(word)}</li>' for path, word in LINKS.items())
    snippets = "".join(f"<h2>{html.escape(title)}</h2><pre>{html.escape(text)}</pre>" for title, text in _snippets(card.id, url).items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>semantic-trio</title><style>{STYLE}</style></head><body>"
        f"<h1>semantic-trio {html.escape(version)}</h1>"
        f"<p>This server answers with <b>{html.escape(card.id)}</b>, in conversations of up to {card.context_length:,} tokens.</p>"
        f"{snippets}<h2>Look at</h2><ul>{links}</ul>"
        "<p>The manual is the directory <code>docs</code> beside the program; <code>docs/index.md</code> is where it begins.</p></body></html>"
    )


def _snippets(model: str, url: str) -> dict[str, str]:
    body = json.dumps({"model": model, "max_tokens": 64, "messages": [{"role": "user", "content": QUESTION}]})
    return {
        "In a terminal": f"curl {url}/v1/chat/completions -H 'content-type: application/json' -d {shlex.quote(body)}",
        "In Python, with the package openai": (
            f'import openai\n\nclient = openai.OpenAI(base_url={json.dumps(f"{url}/v1")}, api_key="local")\n'
            f'messages = [{{"role": "user", "content": {json.dumps(QUESTION)}}}]\n'
            f"print(client.chat.completions.create(model={json.dumps(model)}, messages=messages).choices[0].message.content)"
        ),
        "With Claude Code": f"semantic-trio claude --url {shlex.quote(url)} --run",
    }
