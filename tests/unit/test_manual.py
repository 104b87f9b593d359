"""The built manual shows whole without a network: nothing it needs to be shown comes from another
host.
"""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import attrs
import pytest

from tools import gains

ROOT = Path(__file__).parents[2]
# Subjects of the diagrams that the manual has to have, by their accessible titles.
DIAGRAMS = {
    "Layers",
    "Request flow",
    "Agent life cycle",
    "Block states",
    "Hot swap",
    "Model decision tree",
    "SSE events",
    "Batch window",
    "CI pipeline",
    "Shutdown",
}
# Pages that the manual has to have, beside README.md.
PAGES = {
    "quick-start",
    "installation",
    "user-guide",
    "developer-guide",
    "architecture",
    "model-onboarding",
    "api-reference",
    "deployment",
    "troubleshooting",
    "replication-notes",
    "test-matrix",
}
FOREIGN = re.compile(r"^(?:https?:)?//")


@attrs.define(eq=False)
class Needs(HTMLParser):
    """Addresses of what a browser fetches to show a page."""

    found: list[str] = attrs.field(factory=list)

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """See `HTMLParser`."""
        given = {name: value or "" for name, value in attributes}
        if tag in {"script", "img", "iframe", "source"} and "src" in given:
            self.found.append(given["src"])
        if tag == "link" and given.get("rel") not in {"canonical", "next", "prev"}:
            self.found.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="needs the extra docs: the manual is built with it")
    built = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(built)]
    subprocess.run(
        command,
        cwd=ROOT,
        check=True,
        timeout=300,
        capture_output=True,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )
    return built


def _needed(site: Path) -> Iterator[tuple[str, str]]:
    for page in site.rglob("*.html"):
        parser = Needs()
        parser.feed(page.read_text())
        yield from ((page.name, address) for address in parser.found)
    for style in site.rglob("*.css"):
        yield from (
            (style.name, address)
            for address in re.findall(r"(?:url\(|@import )['\"]?([^'\")]+)", style.read_text())
        )


@pytest.mark.timeout(1200)
def test_no_script_style_font_or_picture_comes_from_another_host(site: Path) -> None:
    needed = list(_needed(site))

    assert any(address.endswith(".js") for _, address in needed)
    assert any(address.endswith(".css") for _, address in needed)
    assert [one for one in needed if FOREIGN.match(one[1])] == []


@pytest.mark.timeout(1200)
def test_a_page_with_diagrams_brings_what_draws_them(site: Path) -> None:
    """The theme fetches Mermaid from another host where there is no `mermaid` in the page
    already.
    """
    pages = [page for page in site.rglob("*.html") if 'class="mermaid"' in page.read_text()]

    assert len(pages) >= 3
    for page in pages:
        parser = Needs()
        parser.feed(page.read_text())
        [script] = [address for address in parser.found if "mermaid" in address]
        assert 'globalThis["mermaid"]' in (page.parent / script).read_text()


def test_no_message_of_a_diagram_is_cut_by_a_semicolon() -> None:
    """Mermaid takes one for the end of a statement in a sequence diagram, and draws nothing
    then.
    """
    diagrams = [
        found
        for page in (ROOT / "docs").rglob("*.md")
        for found in re.findall(
            r"```mermaid\nsequenceDiagram\n(.*?)```", page.read_text(), re.DOTALL
        )
    ]

    assert diagrams
    assert [line for diagram in diagrams for line in diagram.splitlines() if ";" in line] == []


def test_the_manual_draws_its_ten_subjects() -> None:
    titles = [
        title
        for page in (ROOT / "docs").rglob("*.md")
        for title in re.findall(r"^  accTitle: (.+)$", page.read_text(), re.MULTILINE)
    ]

    assert sorted(titles) == sorted(DIAGRAMS)


def test_the_picture_of_what_a_user_gains_is_drawn_from_figures_that_were_measured() -> None:
    measured = (ROOT / "docs" / "experiments.md").read_text()
    sections = {
        re.sub(r"[^a-z0-9]+", "-", part.split("\n")[0].lower().strip("# ")): part
        for part in re.split(r"\n(?=##)", measured)
    }

    assert gains.PICTURE.read_text() == gains.svg(), "run tools/gains.py"
    for gain in tomllib.loads(gains.DATA.read_text())["gain"]:
        assert [
            figure for figure in gain["figures"] if figure not in sections[gain["section"]]
        ] == []


def test_the_manual_has_its_pages_and_every_link_of_the_readme_leads_somewhere() -> None:
    readme = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(((?:docs|examples)/[^)#]*|[A-Z]+(?:\.md)?)", readme)

    assert {page for page in PAGES if not (ROOT / "docs" / f"{page}.md").is_file()} == set()
    assert len(links) > 20
    assert [link for link in links if not (ROOT / link).exists()] == []
