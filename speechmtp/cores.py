"""How many cores this process may use: those of its affinity, and those that quotas of control groups leave it."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_HERE = {"forked": False}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _HERE.update(forked=True))


def cores(root: Path = Path("/")) -> int:
    """The number of cores that this process may use, at least 1: the least of its affinity and the quotas of its
    control groups. Halves of a quota are rounded up: 1.5 cores are 2, since two workers do more on them than one. A
    forked process has 1, as it usually has siblings. `root` is the folder in which `proc` and `sys` are."""
    if _HERE["forked"]:
        return 1
    quota = min(_quotas(root), default=math.inf)
    allowed = _allowed()
    return allowed if quota >= allowed else max(1, math.floor(quota + 0.5))


def _allowed() -> int:
    """The number of cores of this process's affinity; all cores where the system does not say."""
    if hasattr(os, "process_cpu_count"):  # from Python 3.13; -X cpu_count and PYTHON_CPU_COUNT count there
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """The quotas in cores of this process's control groups and of all groups above them."""
    for mount, own, is_new in _groups(root):
        for folder in (own, *own.parents):
            quota = _new_quota(folder) if is_new else _old_quota(folder)
            if quota is not None:
                yield quota
            if folder == mount:
                break


def _groups(root: Path) -> Iterator[tuple[Path, Path, bool]]:
    """Each mounted hierarchy of control groups that may hold a quota: its folder, that of this process's group within
    it, and whether it is one of version 2."""
    paths = dict[str, str]()
    for line in _lines(root / "proc/self/cgroup"):  # 0::/user.slice, or 4:cpu,cpuacct:/docker/1f
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        paths |= {name: path for name in controllers.split(",") if name in ("", "cpu")}
    for line in _lines(root / "proc/self/mountinfo"):  # 31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
        before, _, behind = line.partition(" - ")
        fields, kinds = before.split(), behind.split()
        if len(fields) < 5 or len(kinds) < 3:
            continue
        is_new = kinds[0] == "cgroup2"
        if is_new or (kinds[0] == "cgroup" and "cpu" in kinds[2].split(",")):
            path = paths.get("" if is_new else "cpu", "/")
            mount = root / fields[4].lstrip("/")
            # A container may see only its own part of the tree, the mount's root, but the path from the top.
            top = fields[3].rstrip("/") + "/"
            steps = f"{path}/".removeprefix(top).split("/") if f"{path}/".startswith(top) else []
            yield mount, mount.joinpath(*(step for step in steps if step not in ("", ".", ".."))), is_new


def _new_quota(folder: Path) -> float | None:
    """The quota of a group of version 2, whose `cpu.max` is `150000 100000` or `max 100000`; None if it has none."""
    found = " ".join(_lines(folder / "cpu.max")).split()
    return _ratio(found[0], found[1]) if len(found) == 2 else None


def _old_quota(folder: Path) -> float | None:
    """The quota of a group of version 1; None if it has none, which is -1 in its file."""
    quota, period = (" ".join(_lines(folder / f"cpu.cfs_{name}_us")) for name in ("quota", "period"))
    return _ratio(quota, period)


def _ratio(quota: str, period: str) -> float | None:
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(quota) and int(period) else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
