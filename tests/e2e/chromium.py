"""A real headless Chromium, driven over its debugging protocol.

Knows WebSockets and a few commands of the protocol. Debian calls the program `chromium` or
`chromium-headless-shell`.
"""

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import httpx
import wsproto
import wsproto.events

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
# As root a browser has no sandbox; the machine's own certificates, updates and services are of no
# use to a test.
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--disable-background-networking",
)
# Seconds in which a browser on a busy machine does anything.
PATIENCE_SECONDS = 60.0


def found() -> str | None:
    """The path of a Chromium on this machine."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@attrs.define(eq=False)
class Page:
    """One page of a browser."""

    _socket: socket.socket
    _connection: wsproto.WSConnection
    events: list[dict[str, Any]] = attrs.field(factory=list)
    _ids: Iterator[int] = attrs.field(factory=lambda: itertools.count(1))
    _text: str = ""  # of a message that has not come to its end
    _messages: list[dict[str, Any]] = attrs.field(factory=list)

    @classmethod
    def connect(cls, url: str) -> "Page":
        """Connect to the debugger of a page."""
        parts = urlsplit(url)
        page = cls(
            socket.create_connection((str(parts.hostname), parts.port or 80), PATIENCE_SECONDS),
            wsproto.WSConnection(wsproto.ConnectionType.CLIENT),
        )
        page._socket.sendall(
            page._connection.send(wsproto.events.Request(host=parts.netloc, target=parts.path))
        )
        while not any(
            isinstance(event, wsproto.events.AcceptConnection) for event in page._received()
        ):
            pass
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.command(f"{domain}.enable")
        return page

    def command(self, method: str, **parameters: object) -> dict[str, Any]:
        """Carry out a command; its result."""
        number = next(self._ids)
        text = json.dumps({"id": number, "method": method, "params": parameters})
        self._socket.sendall(self._connection.send(wsproto.events.Message(data=text)))
        while True:
            message = self._message()
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self.events.append(message)

    def open(self, url: str) -> None:
        """Go to an address."""
        self.command("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:  # any JSON
        """The value of an expression, in JavaScript."""
        answer = self.command(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < deadline, (
                f"{condition} does not become true; the page says: {self.text[:2000]}"
            )
            time.sleep(0.05)

    @property
    def text(self) -> str:
        """The text that the page shows."""
        return str(self.evaluate("document.body.innerText"))

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key."""
        code = {"Enter": 13, "Tab": 9, "Escape": 27}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.command(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                modifiers=8 * shift,
                **text,
            )

    def type(self, text: str) -> None:
        """Type a text into what has the focus."""
        self.command("Input.insertText", text=text)

    def resize(self, width: int, height: int) -> None:
        """Give the page another size, in pixels."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def scheme(self, name: str) -> None:
        """Have the system be dark or light."""
        self.command(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}]
        )

    def screenshot(self, path: Path) -> None:
        """Write a picture of the whole page."""
        height = self.evaluate("document.documentElement.scrollHeight")
        width = self.evaluate("window.innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        picture = self.command(
            "Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip
        )
        path.write_bytes(base64.b64decode(picture["data"]))

    @property
    def faults(self) -> list[str]:
        """Exceptions of scripts and errors of the console, refusals of the content security policy
        among them.
        """
        self.evaluate("0")  # what has happened so far is read with the answer
        thrown = [
            event["params"]["exceptionDetails"]
            for event in self.events
            if event["method"] == "Runtime.exceptionThrown"
        ]
        logged = [
            event["params"]["entry"] for event in self.events if event["method"] == "Log.entryAdded"
        ]
        return [
            str(one)
            for one in (
                *thrown,
                *(
                    entry
                    for entry in logged
                    if entry["level"] == "error" and entry["source"] != "network"
                ),
            )
        ]

    @property
    def requested(self) -> list[str]:
        """Addresses of all requests."""
        self.evaluate("0")
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _received(self) -> list[wsproto.events.Event]:
        data = self._socket.recv(1 << 16)
        assert data, "the browser has ended"
        self._connection.receive_data(data)
        return list(self._connection.events())

    def _message(self) -> dict[str, Any]:
        while not self._messages:
            for event in self._received():
                if isinstance(event, wsproto.events.Message):
                    self._text += str(event.data)
                    if event.message_finished:
                        self._messages.append(json.loads(self._text))
                        self._text = ""
        return self._messages.pop(0)


@contextlib.contextmanager
def browsing(program: str, directory: Path) -> Iterator[Page]:
    """A page of a browser that has nothing but a new directory."""
    command = [program, *OPTIONS, f"--user-data-dir={directory}", "about:blank"]
    with (
        (directory.parent / "chromium.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        try:
            page = Page.connect(_debugger(directory / "DevToolsActivePort", process))
            yield page
            page.close()
        finally:
            # a script that starts the browser would leave it behind
            os.killpg(process.pid, signal.SIGKILL)


def _debugger(file: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (file.exists() and len(lines := file.read_text().splitlines()) == 2):
        assert process.poll() is None, "the browser did not start"
        assert time.monotonic() < deadline, "the browser does not answer"
        time.sleep(0.05)
    targets = httpx.get(f"http://127.0.0.1:{lines[0]}/json", timeout=PATIENCE_SECONDS).json()
    return next(
        str(target["webSocketDebuggerUrl"]) for target in targets if target["type"] == "page"
    )
