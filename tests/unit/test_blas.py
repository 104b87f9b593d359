"""OpenBLAS before MLX, and what is said where there is none."""

import sys
from pathlib import Path

import pytest

from semantic_trio.adapters.mlx import blas
from semantic_trio.adapters.mlx.blas import BlasReport, load_openblas
from semantic_trio.adapters.mlx.host_memory import available_bytes

search = load_openblas.__wrapped__  # every call looks again


@pytest.fixture(autouse=True)
def before_mlx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mlx.core", raising=False)


def test_where_there_is_none_one_line_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(blas, "_candidates", lambda: iter(["libnosuchblas.so.0"]))

    report = search()

    assert (report.library, report.needed) == ("", True)
    assert "apt-get install libopenblas0-pthread" in report.cure
    assert report.cure in str(report)
    assert "\n" not in str(report)


def test_a_library_that_is_no_blas_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(blas, "_candidates", lambda: iter(["libc.so.6"]))

    assert search().library == ""


def test_on_a_mac_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")

    assert search() == BlasReport("", needed=False)
    assert search().cure == ""


def test_after_mlx_it_is_too_late_and_that_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlx.core", sys)

    with pytest.raises(AssertionError, match=r"before mlx\.core"):
        search()


def test_debians_threaded_build_comes_first_and_every_multiarch_directory_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("riscv/openblas-openmp", "riscv/openblas-pthread"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "libopenblas.so.0").touch()
    monkeypatch.setattr(blas, "DEBIAN", str(tmp_path))
    monkeypatch.setattr("ctypes.util.find_library", lambda name: f"lib{name}.so.0")

    assert list(blas._candidates())[:2] == [
        str(tmp_path / "riscv" / name / "libopenblas.so.0")
        for name in ("openblas-pthread", "openblas-openmp")
    ]
    assert list(blas._candidates())[2:5] == [
        "libopenblasp.so.0",
        "libopenblaso.so.0",
        "libopenblas.so.0",
    ]


def test_the_memory_left_is_the_hosts_or_the_containers_whichever_is_less(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 8000 kB\nMemAvailable:    4000 kB\n")
    assert available_bytes(meminfo, tmp_path) == 4000 * 1024

    for name, content in (
        ("memory.max", "3000000\n"),
        ("memory.current", "2000000\n"),
        ("memory.stat", "anon 1\ninactive_file 500000\n"),
    ):
        (tmp_path / name).write_text(content)
    assert available_bytes(meminfo, tmp_path) == 1_500_000

    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(meminfo, tmp_path) == 4000 * 1024
    assert available_bytes(tmp_path / "absent", tmp_path) is None
