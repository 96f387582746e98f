"""One trial: a subject is started afresh, warmed up for a second, measured, waited for, and stopped."""

import contextlib
import os
import subprocess
import tempfile
import time
from pathlib import Path

import parts

WARM_UP = 1
CONNECTIONS = 64
# The thread that answers scrapes, as the kernel cuts its name.
ADMIN = "shadowpair-admi"


class Setting:
    """What the subjects of a group share: model stubs by what they do, and a broker; started when first asked for."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.stubs, self.broker, self.drawn = {}, None, {}
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="shadowpair-peers-")))
        return self

    def __exit__(self, *_):
        self.stack.close()

    def stub(self, role, **options):
        """The port of a stub; those with one `role` and the same options are one."""
        key = role, *sorted(options.items())
        if key not in self.stubs:
            stub = parts.Stub(self.folder, **options)
            self.stack.callback(stub.stop)
            self.stubs[key] = stub.port
        return self.stubs[key]

    def topic(self):
        """A new topic of a real broker, as `parts.Shadowpair` takes it."""
        if self.broker is None:
            self.broker = parts.Broker(self.folder / "kafka")
            self.stack.callback(self.broker.stop)
        return self.broker.topic(f"pairs-{time.time_ns()}")


class Subject:
    """What is measured. `start(setting, folder)` gives a running proxy, or none for the stub itself.

    `rate` is an open loop's, in requests per second; 0 is a closed loop. `pairs` is how many pairs each request must
    make for the trial to count. Other options are the load's."""

    def __init__(self, name, start, rate=0, pairs=0, **options):
        self.name, self.start, self.rate, self.pairs, self.options = name, start, rate, pairs, options

    def drive(self, setting, proxy, seconds):
        """Asks for so many seconds; what the load says."""
        port = proxy.port if proxy else setting.stub("prod")
        return parts.load(port, seconds=seconds, rate=self.rate, connections=CONNECTIONS, **self.options)

    @contextlib.contextmanager
    def beside(self, setting):
        """What else runs while it is measured."""
        yield

    def before(self, proxy):
        """Looks at the proxy when it is warm."""

    def look(self, setting, proxy, result):
        """Adds to the result, while the proxy still runs."""


def run(setting, subject):
    """One trial of a subject: numbers by name."""
    with tempfile.TemporaryDirectory(prefix="shadowpair-peers-", ignore_cleanup_errors=True) as folder:
        proxy = subject.start(setting, Path(folder))
        if proxy is None:
            subject.drive(setting, None, WARM_UP)
            return subject.drive(setting, None, setting.seconds)
        try:
            return measured(setting, subject, proxy)
        finally:
            proxy.stop()


def measured(setting, subject, proxy):
    idle = proxy.memory(peak=False)
    with subject.beside(setting):
        warm = subject.drive(setting, proxy, WARM_UP)
        before = proxy.settle(warm["sent"] * subject.pairs)
        subject.before(proxy)
        tasks, cores, began = proxy.tasks(), core_times(), time.monotonic()
        result = subject.drive(setting, proxy, setting.seconds)
        took = time.monotonic() - began
        at_end = spent(proxy, tasks)
        busy, cores = sum(at_end.values()), [now - then for now, then in zip(core_times(), cores)]
    after = proxy.settle(result["sent"] * subject.pairs)
    # With all that is done for these requests after their answers, but without the scrapes by which we wait for that.
    threads = {task: at_end.get(task, 0) if task[1] == ADMIN else s for task, s in spent(proxy, tasks).items()}
    each = 1e6 / max(result["answered"], 1)
    result |= {name: after[name] - before[name] for name in after}
    result |= {
        "cpu_us": sum(threads.values()) * each,
        "cores": busy / took,
        # All that ran on the load's core: where that is full, times say nothing of the proxy.
        "load_core": cores[1] / took,
        "idle_mb": idle,
        "peak_mb": proxy.memory(),
    }
    if proxy.cores == parts.PROXY_CORE:
        # What others took of that core: with more than a little, the round says less than it seems to.
        result["others"] = max(cores[0] - busy, 0) / took
    result["growth_mb"] = result["peak_mb"] - idle
    result["threads"] = by_name(threads, each)
    if subject.pairs and result["delivered"] != result["sent"] * subject.pairs:
        result["does_not_count"] = f"{result['delivered']:.0f} pairs delivered of {result['sent'] * subject.pairs}"
    subject.look(setting, proxy, result)
    return result


def core_times():
    """Seconds that the proxy's and the load's core have worked so far, for whomever."""
    times = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name.startswith("cpu"):
            user, nice, system, _, _, irq, soft, steal = map(int, ticks[:8])
            times[name] = (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
    return [times[f"cpu{core}"] for core in (parts.PROXY_CORE, parts.LOAD_CORE)]


def spent(proxy, before):
    """Processor seconds of each thread since then."""
    return {task: seconds - before.get(task, 0) for task, seconds in proxy.tasks().items()}


def by_name(threads, each):
    """Microseconds per request by the thread's name."""
    by = {}
    for (_, name), seconds in threads.items():
        by[name] = by.get(name, 0) + seconds * each
    return {name: round(us, 2) for name, us in sorted(by.items(), key=lambda item: -item[1]) if us >= 0.05}


@contextlib.contextmanager
def drawing(setting, port, rate):
    """Another process draws answers from a stub past the proxy, at this rate, on the load's core."""
    argv = parts.load_command(port, rate=rate, seconds=600, connections=CONNECTIONS)
    drawer = parts.Pinned(argv, parts.LOAD_CORE, setting.folder / "drawer.log", parts.ASIDE)
    try:
        yield
        if drawer.child.poll() is not None:
            raise RuntimeError(f"the drawing process ended: {(setting.folder / 'drawer.log').read_text()[-500:]}")
    finally:
        drawer.stop()


def version(argv):
    """The first line that a program says of its version."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return f"{Path(argv[0]).name}: not there"
    said = (done.stdout + done.stderr).strip().split("\n")[0]
    # Envoy begins with the path that it was called by.
    return said.replace(str(argv[0]), Path(argv[0]).name)
