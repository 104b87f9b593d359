"""The page at `/`: for browsers alone, whole by itself, and harmless whatever a model or a host is called."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import attrs
import pytest

from semantic_trio.adapters.http.operations.landing_page import page
from semantic_trio.adapters.http.serving.app_state import HttpSettings
from semantic_trio.adapters.http.serving.served_model import ModelCard
from semantic_trio.testing import FakeRunner
from tests.http.serving import Call, get, served

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
HOSTILE = """<script>alert(1)</script>"'&</pre>"""


@attrs.define(eq=False)
class Seen(HTMLParser):
    """Tags, attributes and text of a page."""

    tags: list[str] = attrs.field(factory=list)
    attributes: list[tuple[str, str | None]] = attrs.field(factory=list)
    text: str = ""

    def __attrs_post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See `HTMLParser`."""
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        """See `HTMLParser`."""
        self.text += data


def seen(content: bytes) -> Seen:
    parser = Seen()
    parser.feed(content.decode())
    return parser


async def test_a_browser_is_shown_what_is_served_and_how_to_use_it() -> None:
    call = await get(served(FakeRunner()).app, "/", accept=BROWSER, host="localhost:8123")
    shown = seen(call.content)

    assert (call.status, call.answer_headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert all(word in shown.text for word in ("org/tiny", "4,096 tokens", "0.0.0"))
    assert shown.tags.count("pre") == 3
    for snippet in (
        "curl http://localhost:8123/v1/chat/completions",
        'base_url="http://localhost:8123/v1"',
        "claude --url http://localhost:8123 --run",
    ):
        assert snippet in shown.text


async def test_every_link_of_the_page_leads_somewhere() -> None:
    app = served(FakeRunner()).app
    links = [value for name, value in seen((await get(app, "/", accept=BROWSER)).content).attributes if name == "href"]

    assert {"/v1/agents", "/metrics", "/openapi.json"} <= set(links)
    for link in links:
        assert (await get(app, str(link))).status in {200, 503}, link


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/json, text/html", "text/plain", "", "text/html;q=0.5, application/json"])
async def test_programs_get_json(accept: str) -> None:
    call = await get(served(FakeRunner()).app, "/", **({"accept": accept} if accept else {}))

    assert call.json == {"name": "semantic-trio", "version": "0.0.0"}


async def test_a_browser_that_asks_for_the_head_gets_the_head_of_the_page() -> None:
    call = await Call(served(FakeRunner()).app, "HEAD", "/", headers={"accept": BROWSER}).run()

    assert call.status == 200
    assert call.answer_headers["content-type"].startswith("text/html")


async def test_the_page_loads_and_runs_nothing() -> None:
    call = await get(served(FakeRunner()).app, "/", accept=BROWSER)
    shown = seen(call.content)
    policy = dict(rule.split(" ", 1) for rule in call.answer_headers["content-security-policy"].split("; "))
    found = re.search(r"<style>(.*)</style>", call.content.decode())
    assert found is not None

    assert policy["default-src"] == "'none'"
    assert policy["style-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()}'"
    assert not {"script", "link", "img", "iframe", "form", "object", "base"} & set(shown.tags)
    assert {name for name, _ in shown.attributes} <= {"href", "lang", "charset", "name", "content"}
    assert all(str(value).startswith("/") for name, value in shown.attributes if name == "href")


async def test_names_are_shown_and_not_obeyed() -> None:
    text = (await page(ModelCard(HOSTILE, HOSTILE, 1, 0), HOSTILE, HOSTILE).get_data()).decode()
    plain = (await page(ModelCard("m", "m", 1, 0), "1", "localhost").get_data()).decode()

    assert seen(text.encode()).tags == seen(plain.encode()).tags
    assert HOSTILE in seen(text.encode()).text


async def test_a_host_is_shown_and_not_obeyed() -> None:
    app = served(FakeRunner(), HttpSettings(allow_remote=True)).app
    call = await get(app, "/", accept=BROWSER, host=HOSTILE)

    assert "script" not in seen(call.content).tags
    assert call.status == 200


async def test_the_page_needs_the_key_that_everything_needs() -> None:
    call = await get(served(FakeRunner(), HttpSettings(api_key="k")).app, "/", accept=BROWSER)

    assert call.status == 401
    assert b"org/tiny" not in call.content
