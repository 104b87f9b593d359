"""A real server under what the world does to it."""

import json
import random
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from semantic_trio.entrypoints.exits import ExitCode
from tests.process import ServerProcess, serving

STORM, SURVIVORS = 200, 20
MUTATIONS = 2000


def body(max_tokens: int, text: str = "hello", *, stream: bool = True) -> dict[str, object]:
    return {
        "model": "default",
        "max_tokens": max_tokens,
        "stream": stream,
        "temperature": 0,
        "messages": [{"role": "user", "content": text}],
    }


def port(server: ServerProcess) -> int:
    return int(server.url.rpartition(":")[2])


def raw_request(content: dict[str, object], path: str = "/v1/messages") -> bytes:
    data = json.dumps(content).encode()
    return (
        b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: "
        b"application/json\r\nContent-Length: %d\r\n\r\n"
    ) % (path.encode(), len(data)) + data


def hang_up(server: ServerProcess, seed: int) -> None:
    """Ask for something and leave at a random moment: before the first byte, while queued, while
    the prompt is read, in mid-stream.
    """
    chance = random.Random(seed)
    text = "word " * chance.choice([1, 50, 3000])
    with socket.create_connection(("127.0.0.1", port(server)), timeout=30) as sock:
        request = raw_request(body(5000, text, stream=chance.random() < 0.8))
        sock.sendall(
            request[
                : chance.choice([10, len(request) // 2, len(request), len(request), len(request)])
            ]
        )
        sock.settimeout(chance.choice([0.001, 0.05, 0.5, 1.5]))
        try:
            while sock.recv(4096):
                if chance.random() < 0.3:
                    return
        except TimeoutError:
            return


def survive(server: ServerProcess) -> str:
    for _ in range(50):
        answer = httpx.post(
            f"{server.url}/v1/messages", json=body(40, "tell me", stream=False), timeout=120
        )
        if answer.status_code == 529:
            time.sleep(min(2, float(answer.headers["retry-after"])))
            continue
        assert answer.status_code == 200, answer.text
        return str(answer.json()["content"][0]["text"])
    raise AssertionError("never served")


def storm(server: ServerProcess, salt: int) -> list[str]:
    with ThreadPoolExecutor(40) as pool:
        leavers = [pool.submit(hang_up, server, salt + i) for i in range(STORM - SURVIVORS)]
        stayers = [pool.submit(survive, server) for _ in range(SURVIVORS)]
        for leaver in leavers:
            leaver.result(240)
        return [stayer.result(240) for stayer in stayers]


def test_a_storm_of_200_leaves_an_empty_engine_and_level_memory(tmp_path: Path) -> None:
    with serving(tmp_path, SEMANTIC_QUEUE_LIMIT="300") as server:
        expected = survive(server)
        storm(server, 0)
        server.until_empty()
        level = server.resident_bytes()
        texts = storm(server, 1000)
        took = server.until_empty()
        grown = server.resident_bytes() - level
        server.signal(signal.SIGTERM)
        code = server.exit_code()

    assert texts == [expected] * SURVIVORS
    assert took < 10
    assert grown < 60_000_000, f"{grown / 1e6:.0f} MB more after a second storm"
    assert code == ExitCode.OK


KILLERS = [
    (
        b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: "
        b"Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\nx"
    ),
    (
        b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade, "
        b"HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: ???\r\n\r\n"
    ),
]


def mutate(chance: random.Random) -> bytes:
    data = bytearray(
        chance.choice(
            [
                *KILLERS,
                raw_request(body(3)),
                b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            ]
        )
    )
    for _ in range(chance.choice([0, 1, 1, 3, 20])):
        at = chance.randrange(len(data))
        match chance.randrange(4):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                del data[at : at + chance.randrange(1, 20)]
            case 2:
                data[at:at] = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 30)))
            case 3:
                data = data[: at + 1]
        data = data or bytearray(b"\0")
    return bytes(data)


def poke(server: ServerProcess, seed: int) -> None:
    chance = random.Random(seed)
    try:
        with socket.create_connection(("127.0.0.1", port(server)), timeout=5) as sock:
            sock.settimeout(0.2)
            sock.sendall(mutate(chance))
            if chance.random() < 0.5:
                sock.recv(4096)
    except OSError:
        pass


def test_two_thousand_mutated_connections_and_the_two_killers_leave_it_alive(
    tmp_path: Path,
) -> None:
    with serving(tmp_path) as server:
        expected = survive(server)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda seed: poke(server, seed), range(MUTATIONS)))
        for killer in KILLERS:
            with socket.create_connection(("127.0.0.1", port(server)), timeout=5) as sock:
                sock.sendall(killer)
        time.sleep(0.5)

        assert server.process.poll() is None
        assert survive(server) == expected
        server.until_empty()
        server.signal(signal.SIGTERM)
        assert server.exit_code() == ExitCode.OK


@pytest.mark.timeout(600)  # ten starts, on a machine that may have other work
@pytest.mark.parametrize("model", ["tiny-random", "smollm2-135m"])
def test_it_exits_0_after_load_and_generation_every_time(tmp_path: Path, model: str) -> None:
    codes = []
    for number in range(10):
        directory = tmp_path / str(number)
        directory.mkdir()
        with serving(directory, model=model) as server:
            survive(server)
            server.signal(signal.SIGTERM)
            codes.append(server.exit_code())

    assert codes == [ExitCode.OK] * 10


def test_a_client_that_does_not_read_delays_no_neighbour(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        stuck = [socket.create_connection(("127.0.0.1", port(server))) for _ in range(3)]
        for sock in stuck:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            sock.sendall(raw_request(body(100_000)))
        results: list[str] = []
        readers = [
            threading.Thread(target=lambda: results.append(survive(server))) for _ in range(5)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(60)
        for sock in stuck:
            sock.close()
        server.until_empty()

    assert len(set(results)) == 1
    assert len(results) == 5
