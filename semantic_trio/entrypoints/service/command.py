"""The command line's `service`: install, uninstall, status, logs."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import platformdirs

from semantic_trio.adapters.catalogue.catalogue import open_catalogue
from semantic_trio.adapters.catalogue.progress import Lines
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.entrypoints.cache_cli import told_ends
from semantic_trio.entrypoints.claude import default_url
from semantic_trio.entrypoints.options import from_arguments, load, settings_options
from semantic_trio.entrypoints.printing import tell_facts
from semantic_trio.entrypoints.safety import check
from semantic_trio.entrypoints.service import environment
from semantic_trio.entrypoints.service.files import PRIVATE, read, write
from semantic_trio.entrypoints.service.launchd import launchd
from semantic_trio.entrypoints.service.plan import SERVE, Plan, left_behind, make_plan
from semantic_trio.entrypoints.service.readiness import ask_readiness
from semantic_trio.entrypoints.service.supervisor import Supervisor
from semantic_trio.entrypoints.service.systemd import systemd
from semantic_trio.entrypoints.settings import Settings
from semantic_trio.entrypoints.sources import ENV_FILE, PREFIX

NOT_INSTALLED = "the service is not installed: semantic-trio service install"


@click.group()
@click.pass_context
def service(context: click.Context) -> None:
    """The server as a service of yours: launchd on macOS, systemd on Linux."""
    context.obj = context.obj or _supervisor()


def _supervisor() -> Supervisor:
    """The service manager of this machine."""
    directory = platformdirs.user_config_path("semantic_trio") / "service"
    return launchd(directory) if sys.platform == "darwin" else systemd(directory)


@service.command()
@settings_options
@click.option(
    "--print",
    "is_printed",
    is_flag=True,
    help="Print what the service manager would get, and change nothing.",
)
@click.pass_obj
def install(
    supervisor: Supervisor, /, config_file: Path | None, *, is_printed: bool, **options: object
) -> None:
    """Run `serve` with these options from now on: now, after a failure, and at every login.

    Again with other options, or after an upgrade: the server is drained and started anew.
    """
    with told_ends():
        plan = _plan(supervisor, config_file, options)
        content = supervisor.render(plan)
        if is_printed:
            click.echo(content, nl=False)
            return
        supervisor.check()
        variables = environment.updated(read(plan.environment_file), plan.variables)
        check(plan.settings)
        open_catalogue(plan.settings.data_dir).ensure(plan.settings.model_id, Lines())
        write(plan.environment_file, variables, PRIVATE)
        supervisor.install(content)
        for name, source in left_behind(config_file, options, plan):
            click.echo(
                (
                    f"semantic-trio: {name} is set in {source}, which the service does not read: "
                    "give it as an option"
                ),
                err=True,
            )
    tell_facts(_installed(supervisor, plan))


def _plan(supervisor: Supervisor, config_file: Path | None, options: dict[str, object]) -> Plan:
    plan = make_plan(config_file, options, supervisor.directory, supervisor.log_file)
    if plan.settings.port == 0:
        raise InvalidRequestError(
            "0 is another port after every start, and clients would not find the service: name one",
            "port",
        )
    return plan


def _installed(supervisor: Supervisor, plan: Plan) -> Iterator[tuple[str, str]]:
    yield "wrote", str(supervisor.file)
    yield "wrote", f"{plan.environment_file} (mode 0600: {', '.join(plan.variables)})"
    yield (
        "started",
        (
            f"it loads {plan.settings.model_id}, then answers on {default_url(plan.settings)}; "
            f"{supervisor.remark}"
        ),
    )
    yield "look", "semantic-trio service status; semantic-trio service logs -f"
    yield "stop", "semantic-trio service uninstall"


@service.command()
@click.pass_obj
def uninstall(supervisor: Supervisor) -> None:
    """End the server and remove the service. Models, memory and settings stay."""
    with told_ends():
        supervisor.check()
        if not supervisor.file.exists():
            click.echo("the service is not installed: nothing to remove")
            return
        supervisor.uninstall()
    left = supervisor.directory / ENV_FILE
    tell_facts(
        [
            ("removed", supervisor.file),
            *(
                [("left", f"{left}: your settings, and a key if you gave one")]
                if left.exists()
                else []
            ),
        ]
    )


@service.command()
@click.pass_obj
def status(supervisor: Supervisor) -> None:
    """Say whether the server runs and is ready; the exit code is 0 only then."""
    with told_ends():
        settings = _settings(supervisor)
        supervisor.check()
        url = default_url(settings)
        state, readiness = supervisor.state(), ask_readiness(url)
    tell_facts(
        [
            ("service", state),
            ("url", url),
            ("ready", readiness.text if state.pid else "no"),
            ("model", settings.model_id),
            ("file", supervisor.file),
        ]
    )
    sys.exit(0 if state.pid and readiness.is_ready else 1)


@service.command()
@click.option(
    "--lines", "-n", type=click.IntRange(0), default=50, show_default=True, help="Number of lines."
)
@click.option(
    "--follow",
    "-f",
    "is_followed",
    is_flag=True,
    help="Go on with what is logged from now on; Ctrl-C ends it.",
)
@click.pass_obj
def logs(supervisor: Supervisor, lines: int, *, is_followed: bool) -> None:
    """Print the last lines of the server's log."""
    with told_ends():
        _content(supervisor)
        shown = supervisor.log_command(lines, is_followed=is_followed)
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(subprocess.run(shown, check=False).returncode)


def _settings(supervisor: Supervisor) -> Settings:
    """Settings that the installed server is started with.

    Raises `InvalidRequestError` where none is installed, and for settings that cannot be.
    """
    config_file, options = from_arguments(supervisor.command(_content(supervisor))[len(SERVE) :])
    with _without_settings():
        return load(config_file, options, supervisor.directory).settings


def _content(supervisor: Supervisor) -> str:
    """Content of the installed file. Raises `InvalidRequestError` where none is installed."""
    content = read(supervisor.file)
    if not content:
        raise InvalidRequestError(NOT_INSTALLED)
    return content


@contextlib.contextmanager
def _without_settings() -> Iterator[None]:
    """Inside, the environment sets no setting: that of this shell is not that of the service."""
    taken = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(PREFIX)}
    try:
        yield
    finally:
        os.environ.update(taken)
