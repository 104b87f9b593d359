"""The real Claude Code from npm, as a user without an account has it: a home of its own, a key that
is none, and nothing reached but this machine.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import attrs

from tests.e2e.isolated import RUN_SECONDS, from_npm

NEWEST, OLDER = "2.1.329", "2.0.65"
PACKAGE = "@anthropic-ai/claude-code"
Json = dict[str, Any]


def install(version: str) -> tuple[str, ...]:
    """The command that starts a version.

    Newer ones are a program for each platform, older ones a script.
    """
    if version == OLDER:
        return ("node", str(from_npm("claude-code", PACKAGE, version, f"{PACKAGE}/cli.js")))
    return (str(from_npm("claude-code", PACKAGE, version, f"{PACKAGE}-*/claude")),)


@attrs.frozen
class Said:
    """What a run has printed."""

    events: list[Json]
    code: int
    errors: str

    @property
    def result(self) -> str:
        """The last thing it said."""
        return str(self._last["result"])

    @property
    def is_error(self) -> bool:
        """Whether it gave up."""
        return bool(self._last["is_error"])

    @property
    def _last(self) -> Json:
        results = [event for event in self.events if event["type"] == "result"]
        assert results, f"no result: {self.code}\n{self.errors}\n{self.events[-3:]}"
        return results[-1]

    def blocks(self, kind: str) -> list[Json]:
        """All content blocks of a kind."""
        messages = (
            event["message"]["content"]
            for event in self.events
            if event["type"] in ("assistant", "user")
        )
        return [
            block
            for content in messages
            if isinstance(content, list)
            for block in content
            if block["type"] == kind
        ]


# What it is never to do in a test: talk to anybody but the server.
QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_AUTOUPDATER": "1",
    "IS_SANDBOX": "1",
}


def pointing_at(url: str, model: str = "tiny-random") -> dict[str, str]:
    """The variables that lead to a server."""
    models = {f"ANTHROPIC_DEFAULT_{size}_MODEL": model for size in ("OPUS", "SONNET", "HAIKU")}
    return {
        "ANTHROPIC_API_KEY": "sk-local-dummy",
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_MODEL": model,
        **models,
    }


@attrs.define(eq=False)
class Client:
    """One installation in one project. Calls in a row share the home, and so the history."""

    command: tuple[str, ...]
    home: Path
    project: Path
    settings: dict[str, str]  # environment variables; of the real ones it gets the PATH alone

    def __attrs_post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.project.mkdir(parents=True, exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        """All it gets to see."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "TERM": "xterm",
            "LANG": "C.UTF-8",
            **QUIET,
            **self.settings,
        }

    def ask(self, prompt: str, *arguments: str) -> Said:
        """One run of `claude -p`, to its end."""
        with self.started("-p", prompt, *arguments) as process:
            out, errors = process.communicate(timeout=RUN_SECONDS)
        return Said(
            [json.loads(line) for line in out.splitlines() if line.startswith("{")],
            process.returncode,
            errors,
        )

    @contextlib.contextmanager
    def started(self, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
        """A run that is under way; killed at the end if it still is."""
        process = subprocess.Popen(
            [*self.command, *arguments, "--output-format", "stream-json", "--verbose"],
            stdin=subprocess.PIPE if "--input-format" in arguments else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
            cwd=self.project,
            text=True,
            start_new_session=True,  # what it starts is killed with it
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in filter(None, (process.stdin, process.stdout, process.stderr)):
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


@attrs.define(eq=False)
class Dialogue:
    """A run that is talked with line by line."""

    process: "subprocess.Popen[str]"
    events: list[Json] = attrs.field(init=False, factory=list)

    def say(self, text: str) -> None:
        """A message of the user."""
        self._write(
            {
                "type": "user",
                "message": {"role": "user", "content": [{"type": "text", "text": text}]},
            }
        )

    def control(self, **request: object) -> None:
        """A request to the client itself."""
        self._write(
            {"type": "control_request", "request_id": f"c{len(self.events)}", "request": request}
        )

    def _write(self, line: Json) -> None:
        stdin = self._pipe(self.process.stdin)
        stdin.write(json.dumps(line) + "\n")
        stdin.flush()

    def until(self, kind: str, seconds: float = RUN_SECONDS) -> Json:
        """Read until an event of a type, which is returned."""
        deadline = time.monotonic() + seconds
        for line in self._pipe(self.process.stdout):
            if line.startswith("{"):
                self.events.append(json.loads(line))
                if self.events[-1]["type"] == kind:
                    return self.events[-1]
            assert time.monotonic() < deadline, f"no {kind}: {self.events[-3:]}"
        raise AssertionError(f"it ended before {kind}: {self.events[-3:]}")

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe
