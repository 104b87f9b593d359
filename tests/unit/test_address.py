"""An address that cannot be listened on, and what to do then."""

import errno
import os
import socket

import pytest

from semantic_trio.domain.errors import AddressError
from semantic_trio.entrypoints.address import check_address
from semantic_trio.entrypoints.exits import ExitCode, known_ends
from tests.ports import free_port


async def test_a_port_in_use_is_told_with_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressError) as refused:
            await check_address("127.0.0.1", port)

    assert str(refused.value).startswith(
        f"cannot listen on 127.0.0.1:{port}: {os.strerror(errno.EADDRINUSE)}: choose "
    )
    assert "--port" in str(refused.value)
    with pytest.raises(SystemExit) as ended, known_ends():
        raise refused.value
    assert ended.value.code == ExitCode.ADDRESS_UNAVAILABLE
    assert capsys.readouterr().err == f"semantic-trio: {refused.value}\n"


async def test_an_address_of_another_machine_and_an_unknown_name_are_told_with_their_remedy() -> (
    None
):
    for host in ("192.0.2.1", "no-such-name.invalid", "no..name"):
        with pytest.raises(AddressError, match="--host"):
            await check_address(host, 0)


async def test_a_port_that_needs_rights_is_no_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """An `OSError` of this number is a `PermissionError`, which stands for directories
    elsewhere.
    """

    def refuse(*_: object, **__: object) -> socket.socket:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(AddressError, match="below 1024"):
        await check_address("127.0.0.1", 80)


async def test_a_free_port_is_left_free() -> None:
    port = free_port()
    await check_address("127.0.0.1", port)
    await check_address("127.0.0.1", port)
