"""Memory that this process may still take on a Linux host."""

from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def available_bytes(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int | None:
    """Return the bytes that the host and the container leave, whichever is less; None where the
    system does not tell.
    """
    answers = [answer for answer in (_host(meminfo), _container(cgroup)) if answer is not None]
    return min(answers, default=None)


def _host(meminfo: Path) -> int | None:
    kibibytes = _fields(meminfo, ":").get("MemAvailable")
    return int(kibibytes.split()[0]) * 1024 if kibibytes else None


def _container(cgroup: Path) -> int | None:
    """The limit less what is in use; file pages nobody has touched lately are given back on
    demand.
    """
    try:
        limit, used = (
            (cgroup / "memory.max").read_text().strip(),
            int((cgroup / "memory.current").read_text()),
        )
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    idle_pages = int(_fields(cgroup / "memory.stat", " ").get("inactive_file", "0"))
    return max(0, int(limit) - used + idle_pages)


def _fields(file: Path, separator: str) -> dict[str, str]:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in (line.partition(separator) for line in lines)}
