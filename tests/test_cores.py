"""The cores that a process may use: affinity, and quotas of control groups of both versions, in fake files."""

import os
from pathlib import Path

import pytest

from speechmtp import cores as module
from speechmtp.cores import cores

NEW = "30 20 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
OLD = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"


@pytest.fixture(autouse=True)
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may use eight cores."""
    monkeypatch.setattr(module, "_allowed", lambda: 8)


def machine(root: Path, groups: str, mounts: str, **files: str) -> Path:
    """A root folder with the files of `/proc/self`, and others below `/sys/fs/cgroup` (`__` is a slash)."""
    own = root / "proc/self"
    own.mkdir(parents=True)
    (own / "cgroup").write_text(groups)
    (own / "mountinfo").write_text(mounts)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_max", ".max").replace("cpu_cfs", "cpu.cfs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 8), ("250000 100000", 3), ("240000 100000", 2), ("100000 100000", 1), ("20000 100000", 1),
     ("1000 100000", 1), ("900000 100000", 8), ("", 8), ("junk", 8), ("0 100000", 8), ("5 0", 8)],
)  # fmt: skip
def test_quotas_of_version_2_are_rounded_and_never_0(tmp_path: Path, quota: str, expected: int) -> None:
    root = machine(tmp_path, "0::/\n", NEW, cpu_max=quota)
    assert cores(root) == expected


def test_the_least_of_a_group_and_those_above_it_counts(tmp_path: Path) -> None:
    files = {"cpu_max": "600000 100000", "a__cpu_max": "200000 100000", "a__b__cpu_max": "max 100000"}
    assert cores(machine(tmp_path / "1", "0::/a/b\n", NEW, **files)) == 2
    assert cores(machine(tmp_path / "2", "0::/c/d\n", NEW, **files)) == 6, "a group whose folder is not to be seen"
    assert cores(machine(tmp_path / "3", "0::/../x\n", NEW, **files)) == 6


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("150000", 2), ("50000", 1)])
def test_quotas_of_version_1(tmp_path: Path, quota: str, expected: int) -> None:
    files = {"cpu,cpuacct__d__cpu_cfs_quota_us": quota, "cpu,cpuacct__d__cpu_cfs_period_us": "100000"}
    assert cores(machine(tmp_path, "4:cpuset:/\n3:cpu,cpuacct:/d\n0::/\n", OLD + NEW, **files)) == expected


def test_a_container_sees_its_own_part_of_the_tree_alone(tmp_path: Path) -> None:
    mount = "32 31 0:29 /docker/1f /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    files = {"cpu__cpu_cfs_quota_us": "300000", "cpu__cpu_cfs_period_us": "100000",
             "cpu__inner__cpu_cfs_quota_us": "200000", "cpu__inner__cpu_cfs_period_us": "100000"}  # fmt: skip
    assert cores(machine(tmp_path / "1", "1:cpu:/docker/1f\n", mount, **files)) == 3
    assert cores(machine(tmp_path / "2", "1:cpu:/docker/1f/inner\n", mount, **files)) == 2
    assert cores(machine(tmp_path / "3", "1:cpu:/other\n", mount, **files)) == 3


def test_without_control_groups_all_cores_of_the_affinity_count(tmp_path: Path) -> None:
    assert cores(tmp_path) == 8
    assert cores(machine(tmp_path / "x", "junk\n", "junk - x\n\n1 2 3 / /a rw - cgroup2 c rw\n")) == 8


def test_affinity_counts_and_there_is_always_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    for name in ("process_cpu_count", "sched_getaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores(tmp_path) == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 5, 7}, raising=False)
    assert cores(tmp_path) == 3
    monkeypatch.setattr(os, "process_cpu_count", lambda: 2, raising=False)
    assert cores(tmp_path) == 2


def test_a_forked_process_has_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(module._HERE, "forked", True)
    assert cores(tmp_path) == 1
