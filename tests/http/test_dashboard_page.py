"""The page of the dashboard: for browsers, whole by itself, and the same for everybody."""

import re
from html.parser import HTMLParser

import attrs
import pytest

from semantic_trio.adapters.http.dashboard.pages import KINDS, STATIC
from semantic_trio.adapters.http.serving.app_state import HttpSettings
from semantic_trio.testing import FakeRunner
from tests.http.serving import Call, get, served

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
FILES = sorted(file.name for file in STATIC.iterdir() if file.is_file())
# What makes markup, code or requests out of text.
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new "
    r"Function|https?://|\bsrcdoc\b|setAttribute\(\"(?:on|style)"
)


@attrs.define(eq=False)
class Seen(HTMLParser):
    """Tags, addresses and ids of a page."""

    tags: list[str] = attrs.field(factory=list)
    attributes: list[tuple[str, str]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """See `HTMLParser`."""
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attributes]

    def values(self, *names: str) -> set[str]:
        """Values of attributes."""
        return {value for name, value in self.attributes if name in names}


async def page() -> Seen:
    seen = Seen()
    seen.feed((await get(served(FakeRunner()).app, "/dashboard")).content.decode())
    return seen


@pytest.mark.parametrize(
    "settings", [HttpSettings(), HttpSettings(api_key="k")], ids=["no key", "key"]
)
async def test_a_browser_is_sent_from_the_address_of_the_server_to_the_page(
    settings: HttpSettings,
) -> None:
    app = served(FakeRunner(), settings).app
    sent = await get(app, "/", accept=BROWSER)
    shown = await get(app, f"/{sent.answer_headers['location']}", accept=BROWSER)

    assert (sent.status, sent.answer_headers["location"], sent.content) == (303, "dashboard", b"")
    assert (shown.status, shown.answer_headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert (await Call(app, "HEAD", "/dashboard", headers={"accept": BROWSER}).run()).status == 200


@pytest.mark.parametrize(
    "accept",
    [
        "*/*",
        "application/json",
        "application/json, text/html",
        "text/plain",
        "",
        "text/html;q=0.5, application/json",
    ],
)
async def test_programs_get_json_and_need_the_key(accept: str) -> None:
    headers = {"accept": accept} if accept else {}
    open_, keyed = [
        await get(served(FakeRunner(), HttpSettings(api_key=key)).app, "/", **headers)
        for key in (None, "k")
    ]

    assert (open_.status, open_.json["name"]) == (200, "semantic-trio")
    assert keyed.status == 401


async def test_everything_that_the_page_loads_is_here_and_needs_no_key() -> None:
    app, shown = served(FakeRunner(), HttpSettings(api_key="k")).app, await page()
    addresses = {value for value in shown.values("src", "href") if value.startswith("dashboard/")}

    assert len(addresses) == 3
    for name in FILES:
        call = await get(app, f"/dashboard/static/{name}")
        assert (call.status, call.answer_headers["content-type"]) == (
            200,
            KINDS[name.rpartition(".")[2]],
        )
        assert call.content == (STATIC / name).read_bytes()
    assert {f"dashboard/static/{name}" for name in FILES} >= addresses


@pytest.mark.parametrize(
    "path", ["", "/nothing.js", "/..", "/%2e%2e", "/index.html/", "/__init__.py"]
)
async def test_nothing_else_is_served(path: str) -> None:
    call = await get(served(FakeRunner()).app, f"/dashboard/static{path}")

    assert call.status == (200 if path == "/index.html/" else 404)


async def test_every_link_of_the_page_leads_somewhere() -> None:
    app = served(FakeRunner()).app
    links = {value for value in (await page()).values("href") if not value.startswith("#")}

    assert {"v1/agents", "metrics", "openapi.json"} <= links
    for link in links:
        assert (await get(app, f"/{link}")).status in {200, 503}, link


async def test_every_module_that_is_imported_exists() -> None:
    for name in FILES:
        for imported in re.findall(r'from "\./([^"]+)"', (STATIC / name).read_text()):
            assert imported in FILES


async def test_every_element_that_a_script_looks_for_is_in_the_page() -> None:
    wanted = {
        found
        for name in FILES
        for found in re.findall(r'byId\("([^"]+)"\)', (STATIC / name).read_text())
    }

    assert len(wanted) > 20
    assert wanted <= (await page()).values("id")


async def test_a_strict_policy_comes_with_every_file() -> None:
    app = served(FakeRunner()).app
    for path in ("/dashboard", "/dashboard/static/main.js"):
        headers = (await get(app, path)).answer_headers
        policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["require-trusted-types-for"] == "'script'"
        assert headers["x-content-type-options"] == "nosniff"


async def test_the_page_has_no_script_or_style_of_its_own_and_nothing_from_elsewhere() -> None:
    shown = await page()

    assert not {"style", "iframe", "object", "base", "img"} & set(shown.tags)
    assert not [name for name, _ in shown.attributes if name.startswith("on") or name == "style"]
    assert not [value for value in shown.values("src", "href") if "//" in value]
    assert shown.tags.count("script") == 1


@pytest.mark.parametrize(
    "name", [name for name in FILES if name.endswith((".js", ".css", ".html"))]
)
def test_no_script_makes_markup_out_of_text(name: str) -> None:
    assert FORBIDDEN.findall((STATIC / name).read_text()) == []


async def test_the_page_is_no_part_of_the_contract() -> None:
    paths = (await get(served(FakeRunner()).app, "/openapi.json")).json["paths"]

    assert isinstance(paths, dict)
    assert "/healthz" in paths
    assert not [path for path in paths if "dashboard" in path]
