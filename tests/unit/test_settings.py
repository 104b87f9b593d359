"""Where settings come from, and which source wins."""

import contextlib
import resource
from pathlib import Path

import attrs
import pytest

from semantic_trio.domain.errors import AddressError, InvalidRequestError, ModelNotFoundError
from semantic_trio.entrypoints import safety
from semantic_trio.entrypoints.claude import default_url
from semantic_trio.entrypoints.locking import holder
from semantic_trio.entrypoints.settings import Settings, aliases_of
from semantic_trio.entrypoints.settings_loading import load

HOUSE = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in attrs.fields(Settings):
        monkeypatch.delenv(f"SEMANTIC_{field.name.upper()}", raising=False)
    monkeypatch.delenv("SEMANTIC_ENVIRONMENT", raising=False)


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in which every source sets a port of its own."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "default.toml").write_text("[semantic]\nport = 1\n")
    (tmp_path / "config" / "staging.toml").write_text("[semantic]\nport = 2\n")
    (tmp_path / ".env").write_text("SEMANTIC_PORT=3\n")
    monkeypatch.setenv("SEMANTIC_PORT", "4")
    monkeypatch.setenv("SEMANTIC_ENVIRONMENT", "staging")
    return tmp_path


def test_later_sources_win_and_each_is_named(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def port(overrides: dict[str, object]) -> tuple[int, str]:
        loaded = load(overrides, base=sources)
        return loaded.settings.port, Path(loaded.sources["port"]).name

    seen = [port({"port": 5}), port({})]
    monkeypatch.delenv("SEMANTIC_PORT")
    seen.append(port({}))
    (sources / ".env").unlink()
    seen.append(port({}))
    monkeypatch.delenv("SEMANTIC_ENVIRONMENT")
    seen.append(port({}))
    (sources / "config" / "default.toml").unlink()
    seen.append(port({}))

    assert seen == [
        (5, "command line"),
        (4, "environment"),
        (3, ".env"),
        (2, "staging.toml"),
        (1, "default.toml"),
        (8000, "built-in"),
    ]


def test_the_shipped_defaults_are_the_built_in_ones() -> None:
    shipped = load({}, base=HOUSE)
    built_in = load({}, base=HOUSE / "tests")

    assert shipped.settings == built_in.settings
    assert "default.toml" in shipped.sources["port"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"port": 70000}, ["port: 70000", "0 to 65,535", "command line", "0 takes a free one"]),
        ({"port": "many"}, ["port: 'many' is no whole number (command line). Port to listen on"]),
        ({"port": "1.5"}, ["port: '1.5' is no whole number"]),
        ({"port": 1.5}, ["port: 1.5 is no whole number"]),
        ({"port": float("inf")}, ["port: inf is no whole number"]),
        ({"port": True}, ["port: True is no whole number"]),
        ({"ping_seconds": True}, ["ping_seconds: True is no number"]),
        ({"ping_seconds": "nan"}, ["ping_seconds: nan"]),
        ({"ping_seconds": "soon"}, ["ping_seconds: 'soon' is no number"]),
        ({"allow_remote": "maybe"}, ["allow_remote: 'maybe' is neither true nor false"]),
        ({"context_length": 5}, ["context_length: 5", "256", "or 0"]),
        ({"context_length": "255"}, ["context_length: 255", "256"]),
        ({"batch_window_ms": 0.5}, ["batch_window_ms"]),
        ({"batch_window_ms": 1001}, ["batch_window_ms"]),
        ({"aliases": ("fast",)}, ["aliases: 'fast' is no alias", "alias=model"]),
        ({"aliases": ("*=small",)}, ["aliases: '*=small' is no alias"]),
        ({"max_models": -1}, ["max_models: -1"]),
        ({"log_format": "xml"}, ["log_format", "xml"]),
        ({"max_batch_size": -1}, ["max_batch_size"]),
    ],
)
def test_what_cannot_be_is_named(
    tmp_path: Path, overrides: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        load(overrides, base=tmp_path)

    assert all(word in str(refused.value) for word in words)
    assert "\n" not in str(refused.value)
    assert "oader" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[semantic]\nspeed = 9\n", "speed"),
        ("[semantic\n", "broken.toml"),
        ("port = 1\n", "port"),
        (None, "broken.toml"),
    ],
)
def test_a_file_that_cannot_be_read_as_settings_is_named(
    tmp_path: Path, text: str | None, word: str
) -> None:
    file = tmp_path / "broken.toml"
    if text is not None:
        file.write_text(text)

    with pytest.raises(InvalidRequestError, match=word):
        load({}, file, base=tmp_path)


def test_a_value_that_cannot_be_is_told_with_the_place_it_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[semantic]\nport = "abc"\n')
    told = []
    for _ in range(3):
        with pytest.raises(InvalidRequestError) as refused:
            load({}, file, base=tmp_path)
        told.append(str(refused.value))
        if len(told) == 1:
            (tmp_path / ".env").write_text("SEMANTIC_PORT=abc\n")
        else:
            monkeypatch.setenv("SEMANTIC_PORT", "abc")

    assert [
        f"({label})" in one
        for label, one in zip((str(file), ".env", "environment"), told, strict=True)
    ] == [True] * 3
    assert load({"port": 1}, file, base=tmp_path).settings.port == 1, (
        "what is overridden does no harm"
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SEMANTIC_PROT", "did you mean SEMANTIC_PORT?"),
        ("SEMANTIC_MODEL", "did you mean SEMANTIC_MODELS or SEMANTIC_MODEL_ID?"),
        ("SEMANTIC_QQQQQQQQ", "semantic-trio config"),
    ],
)
@pytest.mark.parametrize("is_file", [True, False])
def test_a_name_that_is_no_setting_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str, is_file: bool
) -> None:
    if is_file:
        (tmp_path / ".env").write_text(f"{name}=9000\nOTHER=1\n")
    else:
        monkeypatch.setenv(name, "9000")

    with pytest.raises(InvalidRequestError) as refused:
        load({}, base=tmp_path)

    assert str(refused.value).startswith(
        f"{name} is no setting ({'.env' if is_file else 'environment'}): "
    )
    assert words in str(refused.value)


def test_the_environments_name_belongs_into_the_environment(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SEMANTIC_ENVIRONMENT=test\n")

    with pytest.raises(InvalidRequestError, match="SEMANTIC_ENVIRONMENT is no setting"):
        load({}, base=tmp_path)


def test_an_environment_without_its_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMANTIC_ENVIRONMENT", "prodution")

    with pytest.raises(InvalidRequestError, match=r"config/prodution\.toml does not exist"):
        load({}, base=tmp_path)


def test_the_key_comes_from_the_first_line_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("secret\nsecond line\n")
    settings = load({"api_key_file": str(file), "api_key": "other"}, base=tmp_path).settings

    assert settings.key == "secret"
    assert load({"api_key": "other"}, base=tmp_path).settings.key == "other"
    assert load({}, base=tmp_path).settings.key is None


@pytest.mark.parametrize("content", ["", "\n", None])
def test_a_key_file_without_a_key_is_refused(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)

    with pytest.raises(InvalidRequestError, match="api_key_file"):
        _ = load({"api_key_file": str(file)}, base=tmp_path).settings.key


def test_a_key_is_not_shown() -> None:
    assert "hush" not in repr(Settings(api_key=load({"api_key": "hush"}).settings.api_key))


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        ({"host": "0.0.0.0"}, "host"),
        ({"allow_remote": True}, "API key"),
        ({"host": "192.0.2.1", "allow_remote": True}, "API key"),
    ],
)
def test_a_server_reachable_from_outside_needs_the_switch_and_a_key(
    tmp_path: Path, overrides: dict[str, object], word: str
) -> None:
    with pytest.raises(InvalidRequestError, match=word):
        safety.check(
            load(overrides | {"cache_dir": str(tmp_path / "cache")}, base=tmp_path).settings
        )


def test_the_cache_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "cache"
    safety.check(load({"cache_dir": str(cache)}, base=tmp_path).settings)

    assert cache.stat().st_mode & 0o777 == 0o700
    assert not list(cache.iterdir())


def test_a_cache_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(PermissionError, match="cache_dir"):
        safety.check(load({"cache_dir": str(tmp_path / "file")}, base=tmp_path).settings)


@pytest.mark.parametrize(
    "origin",
    ["*", "https://*.example.com", "chat.example.com", "https://chat.example.com/page", ""],
)
def test_an_origin_that_no_browser_sends_is_refused(tmp_path: Path, origin: str) -> None:
    with pytest.raises(InvalidRequestError, match="allowed_origins"):
        load({"allowed_origins": [origin]}, base=tmp_path)


def test_origins_are_written_with_commas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMANTIC_ALLOWED_ORIGINS", "https://a.example,null,app://b")

    assert load({}, base=tmp_path).settings.allowed_origins == (
        "https://a.example",
        "null",
        "app://b",
    )


@pytest.mark.parametrize(
    "key", ["schl\u00fcssel", "k\u200bey", "a\tb", "a\x1bb", " key", "key ", "a\nb", "\ufeffkey"]
)
def test_a_key_that_no_header_carries_is_refused(key: str, tmp_path: Path) -> None:
    """Clients encode such characters each in its own way, or cut them off: the key would never
    match.
    """
    with pytest.raises(InvalidRequestError, match="api_key: may hold visible ASCII"):
        safety.check(
            load({"api_key": key, "cache_dir": str(tmp_path / "cache")}, base=tmp_path).settings
        )


@pytest.mark.parametrize("content", ["schl\u00fcssel\n", "\ufeffkey\n", "a\tb"])
def test_a_key_file_with_a_key_that_no_header_carries_is_refused(
    content: str, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text(content)

    with pytest.raises(InvalidRequestError, match="api_key_file: may hold visible ASCII"):
        _ = load({"api_key_file": str(tmp_path / "key")}, base=tmp_path).settings.key


@pytest.mark.parametrize("content", [b"key\r\nsecond line\r\n", b"  key  \nx"])
def test_a_key_is_the_first_line_of_its_file_without_the_space_around_it(
    content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "key").write_bytes(content)

    assert load({"api_key_file": str(tmp_path / "key")}, base=tmp_path).settings.key == "key"


def test_a_key_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(InvalidRequestError, match="api_key_file: cannot be read"):
        _ = load({"api_key_file": str(tmp_path / "key")}, base=tmp_path).settings.key


@pytest.mark.parametrize(
    ("hard", "is_enough"),
    [(1000, False), (4095, False), (4096, True), (1_000_000, True), (resource.RLIM_INFINITY, True)],
)
def test_a_process_needs_the_open_files_that_mlx_lm_demands(
    hard: int, is_enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, hard))

    with (
        contextlib.nullcontext()
        if is_enough
        else pytest.raises(InvalidRequestError, match=f"ulimit -n: {hard} .* 4096")
    ):
        safety.check_process()


def test_a_directory_for_temporary_files_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setenv("TMP", str(tmp_path / "nothing"))
    monkeypatch.setenv("TEMP", str(tmp_path))

    with pytest.raises(
        PermissionError, match=f"TMP: '{tmp_path}/nothing' cannot be written to: No such file"
    ):
        safety.check_process()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    safety.check_process()


@pytest.mark.parametrize(
    ("host", "shown"),
    [("::1", "[::1]:8320"), ("127.0.0.1", "127.0.0.1:8320"), ("box.local", "box.local:8320")],
)
def test_an_address_of_ipv6_stands_in_brackets(host: str, shown: str, tmp_path: Path) -> None:
    settings = load({"host": host, "port": 8320}, base=tmp_path).settings

    assert holder(settings, 8320).endswith(f"http://{shown}")
    assert default_url(settings) == f"http://{shown}"
    assert f" {shown}:" in str(AddressError(host, 8320, "in use", "stop it"))


def test_models_and_aliases_are_lists_with_commas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMANTIC_MODELS", "tiny-random,org/model")
    monkeypatch.setenv("SEMANTIC_ALIASES", "fast=org/model,claude-haiku*=tiny-random")
    settings = load({}, base=tmp_path).settings

    assert settings.models == ("tiny-random", "org/model")
    assert aliases_of(settings.aliases) == {"fast": "org/model", "claude-haiku*": "tiny-random"}


def test_models_that_are_not_there_and_aliases_of_none_are_refused_before_the_start() -> None:
    def directory(name: str) -> None:
        if name != "small":
            raise ModelNotFoundError(name, "not on this machine")

    safety.check_models(
        Settings(models=("small",), aliases=("fast=small", "main=smollm2-135m")), directory
    )
    with pytest.raises(ModelNotFoundError, match="not on this machine"):
        safety.check_models(Settings(models=("small", "gone")), directory)
    with pytest.raises(
        InvalidRequestError,
        match="aliases: fast stands for gone, which is not among the models: smollm2-135m, small",
    ):
        safety.check_models(Settings(models=("small",), aliases=("fast=gone",)), directory)
