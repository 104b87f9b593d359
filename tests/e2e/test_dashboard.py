"""The dashboard in a real headless Chromium: it shows, follows, comes back after a restart, and
shows no text unasked.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from semantic_trio.adapters.scripted.rules import Rule
from tests.e2e.chromium import Page, browsing, found
from tests.process import ServerProcess, serving

PROGRAM = found()
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        PROGRAM is None, reason="needs Chromium: apt-get install chromium-headless-shell"
    ),
]

Scripted = Callable[..., ServerProcess]
HELLO = Rule(when="greet", text="Hello from the model.")
ENDLESS = Rule(when="go on", text="word " * 2000, pace_seconds=0.05)
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A page that had no exception and no error of its policy at the end, and asked nobody but its
    server.
    """
    assert PROGRAM is not None
    with browsing(PROGRAM, tmp_path / "chromium") as opened:
        yield opened
        assert opened.faults == []
        assert all(url.startswith(("http://127.0.0.1:", "about:")) for url in opened.requested)


def ask(server: ServerProcess, agent: str, text: str, **headers: str) -> None:
    body = {
        "model": "default",
        "max_tokens": 50,
        "session_id": agent,
        "messages": [{"role": "user", "content": text}],
    }
    httpx.post(
        f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=120
    ).raise_for_status()


def write(page: Page, text: str) -> None:
    page.evaluate("document.getElementById('message').focus()")
    page.type(text)
    page.press("Enter")


def test_a_browser_at_the_address_is_shown_the_server_and_what_changes(
    page: Page, scripted: Scripted
) -> None:
    server = scripted(HELLO)
    page.open(server.url)
    page.until(
        "document.getElementById('status-text')?.textContent.includes('tiny-random is running')"
    )
    assert page.evaluate("location.pathname") == "/dashboard"
    assert page.evaluate("document.querySelectorAll('#agents tr').length") == 0

    ask(server, "planner", "greet me " * 30)
    page.until("document.querySelector('#agents tr')?.innerText.includes('planner')")
    ask(server, "planner", "greet somebody else " * 30)
    page.until(
        "document.querySelector('#agents tr').innerText.includes('differs from its history')"
    )

    assert page.evaluate(
        "[...document.querySelectorAll('[role=meter]')].map(bar => bar.getAttribute('aria-label'))"
    ) == [
        "Batch",
        "Queue",
        "Pool in RAM",
        "Disk",
    ]
    assert f"curl {server.url}/v1/chat/completions" in page.text


def test_texts_are_fetched_when_somebody_asks_for_them(page: Page, scripted: Scripted) -> None:
    server = scripted(HELLO)
    for secret in ("walrus", "octopus"):
        ask(server, "planner", f"greet the {secret} " * 30)
    page.open(server.url)
    page.until("document.querySelector('#agents button')")
    page.evaluate("document.querySelector('#agents button').click()")
    page.until("document.getElementById('turn').innerText.includes('Why no more')")
    assert "walrus" not in page.text
    assert not [url for url in page.requested if "last-turn" in url]

    page.evaluate("document.querySelector('#turn button').click()")
    page.until("document.getElementById('turn').innerText.includes('octopus')")
    assert "walrus" in page.text


def test_the_model_answers_and_its_words_are_no_markup(page: Page, scripted: Scripted) -> None:
    server = scripted(HELLO, Rule(when="markup", text=HOSTILE))
    page.open(server.url)
    page.until("document.getElementById('status-text')?.textContent.includes('running')")
    write(page, "greet me")
    page.until("document.getElementById('log').innerText.includes('Hello from the model.')")
    page.until(
        "document.getElementById('stop').hidden && "
        "document.getElementById('chat-note').innerText.includes('tokens')"
    )
    write(page, f"markup {HOSTILE}")
    page.until(f"document.getElementById('log').innerText.split({json.dumps(HOSTILE)}).length == 3")

    assert page.evaluate("document.querySelectorAll('#log img').length") == 0


def test_escape_stops_an_answer_and_the_batch_is_seen_to_empty(
    page: Page, scripted: Scripted
) -> None:
    server = scripted(ENDLESS)
    page.open(server.url)
    page.until("document.getElementById('status-text')?.textContent.includes('running')")
    write(page, "go on")
    page.until(
        "document.querySelectorAll('#rows .row').length == 1 && "
        "Number(document.getElementById('speed').textContent) > 0"
    )
    page.press("Escape")
    page.until(
        "document.querySelectorAll('#rows .row').length == 0 && "
        "document.getElementById('running').textContent == '0'"
    )
    page.until("document.getElementById('stop').hidden")

    assert server.metric("semantic_rows") == 0


def test_a_key_is_asked_for_and_nothing_is_shown_before(page: Page, scripted: Scripted) -> None:
    page.open(scripted(HELLO, arguments=("--api-key", "a key?/+")).url)
    page.until("document.getElementById('key-form')?.hidden === false")
    assert "tiny-random" not in page.text
    for key in ("wrong", "a key?/+"):
        page.until(
            "document.getElementById('key-form').hidden === false && document.activeElement.id == "
            "'key'"
        )
        page.type(key)
        page.press("Enter")
        page.until("document.getElementById('key').value == ''")
    page.until(
        "document.getElementById('status-text').textContent.includes('tiny-random is running')"
    )
    write(page, "greet me")
    page.until("document.getElementById('log').innerText.includes('Hello from the model.')")


def test_the_page_comes_back_after_a_restart_by_itself(page: Page, tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        port = server.url.rpartition(":")[2]
        page.open(server.url)
        page.until("document.getElementById('status-text')?.textContent.includes('is running')")
        assert server.end() == 0
        page.until("document.querySelector('.dot').dataset.state == 'away'")
    with serving(tmp_path, "--port", port):
        page.until("document.getElementById('status-text').textContent.includes('is running')")


def test_dark_and_light_follow_the_system_until_they_are_chosen(
    page: Page, scripted: Scripted
) -> None:
    back = "getComputedStyle(document.body).backgroundColor"
    page.scheme("light")
    page.open(scripted(HELLO).url)
    page.until("document.getElementById('status-text')?.textContent.includes('is running')")
    light = page.evaluate(back)
    page.scheme("dark")
    page.until(f"{back} != {json.dumps(light)}")
    dark = page.evaluate(back)
    for name, colour in (("dark", dark), ("light", light), ("auto", dark)):
        page.evaluate("document.getElementById('theme').click()")
        assert (
            page.evaluate("document.getElementById('theme').textContent"),
            page.evaluate(back),
        ) == (f"Theme: {name}", colour)


def test_a_narrow_window_needs_no_scrolling_to_the_side_and_the_keyboard_reaches_everything(
    page: Page, scripted: Scripted
) -> None:
    server = scripted(HELLO)
    ask(server, "a-rather-long-name-of-an-agent-that-does-many-things", "greet me")
    page.resize(340, 700)
    page.open(server.url)
    page.until("document.querySelector('#agents button')")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

    reached = []
    for _ in range(12):
        page.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.className")
        )
    assert {"skip", "theme", "link name", "message", "send"} <= set(reached)
