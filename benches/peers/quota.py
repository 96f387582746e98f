"""A control group that may use one core's time: `cpu.max` of cgroup v2, or the CFS quota of v1."""

import contextlib
import os
from pathlib import Path

PERIOD_US = 100_000
V1 = Path("/sys/fs/cgroup/cpu")
V2 = Path("/sys/fs/cgroup")


class Group:
    """A group, and the words that start a program in it."""

    def __init__(self, folder):
        self.folder = folder
        # The shell joins the group, then becomes the program.
        self.prefix = ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', folder]

    def throttled(self):
        """How many periods it was stopped in."""
        for line in (self.folder / "cpu.stat").read_text().splitlines():
            if line.startswith("nr_throttled "):
                return int(line.split()[1])
        return 0


def _make():
    name = f"shadowpair-peers-{os.getpid()}-{os.urandom(3).hex()}"
    if (V2 / "cgroup.subtree_control").exists() and "cpu" in (V2 / "cgroup.subtree_control").read_text().split():
        folder, limits = V2 / name, {"cpu.max": f"{PERIOD_US} {PERIOD_US}"}
    elif (V1 / "cpu.cfs_quota_us").exists():
        folder, limits = V1 / name, {"cpu.cfs_period_us": PERIOD_US, "cpu.cfs_quota_us": PERIOD_US}
    else:
        raise OSError("no cpu controller of control groups is to be had here")
    folder.mkdir()
    try:
        for file, value in limits.items():
            (folder / file).write_text(str(value))
    except OSError:
        folder.rmdir()
        raise
    return Group(folder)


@contextlib.contextmanager
def one_core():
    """A group that is removed when its processes have ended."""
    group = _make()
    try:
        yield group
    finally:
        with contextlib.suppress(OSError):
            group.folder.rmdir()


def why_not():
    """Why there can be no such group here; none where there can."""
    try:
        with one_core():
            return None
    except OSError as error:
        return str(error)
