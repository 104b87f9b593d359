"""Address of a PostgreSQL server, and the user that connects to it.

Knows the parts of a URL. Nothing it says has the password in it: not its text, not its repr, not
its faults.
"""

import getpass
from typing import Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import attrs

from semantic_trio.domain.errors import InvalidRequestError

SETTING = "responses_url"
PORT = 5432
# As libpq calls them: never encrypted, where the server can, or else not at all, and that with a
# certificate of that host alone.
ENCRYPTIONS = ("disable", "prefer", "require", "verify-full")


@attrs.frozen
class Address:
    """One database of one server."""

    user: str
    password: str | None = attrs.field(repr=False)
    host: str
    port: int
    database: str
    directory: str | None  # of the server's unix socket, in place of the host
    encryption: str

    @classmethod
    def of(cls, url: str) -> Self:
        """Parse an address such as
        `postgresql://user:password@host:port/database?host=/directory&sslmode=require`.

        All but the scheme and the database may be left out. Raises `InvalidRequestError`.
        """
        parts, port = _split(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        directory, encryption = options.pop("host", None), options.pop("sslmode", "prefer")
        database = unquote(parts.path.removeprefix("/"))
        if options or not database or "/" in database or parts.fragment:
            raise InvalidRequestError(
                (
                    "has to be postgresql://user:password@host:port/database, with host= and "
                    "sslmode= behind a ? at most"
                ),
                SETTING,
            )
        if encryption not in ENCRYPTIONS or (
            directory is not None and not directory.startswith("/")
        ):
            raise InvalidRequestError(
                f"sslmode is one of {', '.join(ENCRYPTIONS)}, and host= is an absolute directory",
                SETTING,
            )
        user = unquote(parts.username) if parts.username else getpass.getuser()
        password = unquote(parts.password) if parts.password else None
        return cls(
            user, password, parts.hostname or "localhost", port, database, directory, encryption
        )

    @property
    def socket(self) -> str | None:
        """The path of the unix socket, where that is asked for."""
        return (
            f"{self.directory.rstrip('/')}/.s.PGSQL.{self.port}"
            if self.directory is not None
            else None
        )

    def __str__(self) -> str:
        return f"PostgreSQL, {self.socket or f'{self.host}:{self.port}'}, database {self.database}"


def _split(url: str) -> tuple[SplitResult, int]:
    """The parts of a URL, and its port.

    What urllib says of a wrong one may quote a password that should have been escaped.
    """
    try:
        parts = urlsplit(url)
        return parts, parts.port or PORT
    except ValueError:
        raise InvalidRequestError(
            (
                "is no URL: in user and password, %, /, :, ?, #, @, [ and ] are to be written as "
                "%25, %2F and so on"
            ),
            SETTING,
        ) from None
