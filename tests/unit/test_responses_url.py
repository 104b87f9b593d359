"""Which database a URL means; and that nothing told of it has the password."""

import sys
from pathlib import Path

import pytest

import semantic_trio.adapters.store
from semantic_trio.adapters.store import open_store, place_of
from semantic_trio.adapters.store.address import Address
from semantic_trio.domain.errors import InvalidRequestError, SemanticError

DEFAULT = Path("/nowhere/responses.sqlite")


def test_all_parts_of_an_address_are_taken_as_they_were_escaped() -> None:
    found = Address.of("postgresql://a%40b:p%2Fw%23@[::1]:6543/my%20db?sslmode=verify-full")

    assert found == Address("a@b", "p/w#", "::1", 6543, "my db", None, "verify-full")
    assert (str(found), found.socket) == ("PostgreSQL, ::1:6543, database my db", None)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("", "/nowhere/responses.sqlite"),
        ("sqlite:///a%20b/c.sqlite", "/a b/c.sqlite"),
        ("postgresql://u:hush@host/db", "PostgreSQL, host:5432, database db"),
    ],
)
def test_a_place_is_told_without_a_password(url: str, place: str) -> None:
    assert place_of(url, DEFAULT) == place


def test_what_is_left_out_is_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "me")

    assert Address.of("postgresql:///db") == Address(
        "me", None, "localhost", 5432, "db", None, "prefer"
    )


def test_a_unix_socket_is_found_by_its_directory() -> None:
    assert (
        Address.of("postgresql://u@/db?host=/run/postgresql/").socket
        == "/run/postgresql/.s.PGSQL.5432"
    )


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:hush@host/db",
        "hush",
        "postgres://u:hush@host/db",
        "postgresql://u:hush@host",
        "postgresql://u:hush@host/",
        "postgresql://u:hush@host/a/b",
        "postgresql://u:hush@host/db?sslmode=hush",
        "postgresql://u:hush@host/db?host=hush",
        "postgresql://u:hush@host/db?password=hush",
        "postgresql://u:hush@host/db#hush",
        "postgresql://u:hush/1@host/db",
        "postgresql://u:hush#1@host/db",
        "postgresql://u:[hush@host/db",
        "postgresql://u:hush@host:port/db",
        "postgresql:hush",
        "sqlite://hush",
        "sqlite:hush",
        "sqlite:///hush?mode=ro",
        "sqlite:///hush#x",
        "sqlite:///hush%00",
        "sqlite://host/hush",
        "sqlite://[hush",
    ],
)
def test_another_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        open_store(url, DEFAULT)

    assert refused.value.field == "responses_url"
    assert "hush" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_password_is_not_shown() -> None:
    address = Address.of("postgresql://u:hush@host/db")

    assert "hush" not in f"{address} {address!r}"


def test_what_postgresql_needs_is_told_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "semantic_trio.adapters.store.postgres", raising=False)
    monkeypatch.delattr(semantic_trio.adapters.store, "postgres", raising=False)
    monkeypatch.setitem(sys.modules, "pg8000.native", None)

    with pytest.raises(InvalidRequestError, match=r"pip install 'semantic-trio\[postgres\]'"):
        open_store("postgresql://u:hush@host/db", DEFAULT)


def test_a_file_is_named_from_the_root(tmp_path: Path) -> None:
    open_store(f"sqlite://{tmp_path}/a%20b/c.sqlite", DEFAULT).close()
    open_store("", tmp_path / "default.sqlite").close()

    assert sorted(path.name for path in tmp_path.rglob("*.sqlite")) == [
        "c.sqlite",
        "default.sqlite",
    ]


def test_its_faults_are_named() -> None:
    with pytest.raises(SemanticError):
        open_store("", Path("/dev/null/responses.sqlite"))
