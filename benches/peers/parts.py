"""What a measurement is made of: the stubs, the load, and the proxies, each a process pinned to its core."""

import json
import os
import random
import signal
import socket
import string
import subprocess
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
BROKER = HERE.parent.parent / "tests" / "real" / "kafka" / "broker"
# `run` sets them; one that is missing fails the subjects that need it, and no other.
PEERS = os.environ.get("PEERS_BIN", "peers")
SHADOWPAIR = os.environ.get("SHADOWPAIR_BIN", "shadowpair")
ENVOY = os.environ.get("ENVOY_BIN", "envoy")
PROXY_CORE, LOAD_CORE = "0", "1"
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port():
    """Below the range from which outgoing connections take theirs."""
    while True:
        port = random.randint(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def wait_for_port(port, child=None, seconds=30):
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline or (child is not None and child.poll() is not None):
                raise RuntimeError(f"nothing listens on port {port}") from None
            time.sleep(0.02)


class Pinned:
    """A child process in a session of its own, on given cores."""

    def __init__(self, argv, cores, log, prefix=(), **options):
        with open(log, "ab") as out:
            self.child = subprocess.Popen(
                ["taskset", "-c", cores, *prefix, *map(str, argv)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, **options,
            )

    def pids(self):
        """It and its children."""
        found, todo = [], [self.child.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                todo += map(int, task.read_text().split())
        return found

    def cpu(self):
        """Seconds of processor time so far, user and system, all threads that still live."""
        total = 0
        for pid in self.pids():
            for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                try:
                    total += int(task.read_text().split()[0])
                except OSError:
                    continue
        return total / 1e9

    def tasks(self):
        """Processor seconds of each thread by (its id, its name); the kernel cuts names at 15 characters."""
        by = {}
        for pid in self.pids():
            for task in Path(f"/proc/{pid}/task").glob("*"):
                try:
                    name = (task / "comm").read_text().strip()
                    by[task.name, name] = int((task / "schedstat").read_text().split()[0]) / 1e9
                except OSError:
                    continue
        return by

    def threads(self):
        """Processor seconds by the thread's name."""
        by = {}
        for (_, name), seconds in self.tasks().items():
            by[name] = by.get(name, 0) + seconds
        return by

    def forget_peak(self):
        """Begins the count of the peak anew (proc(5), clear_refs)."""
        for pid in self.pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def memory(self, peak=True):
        """Resident megabytes: the most there were, or those now."""
        field = "VmHWM:" if peak else "VmRSS:"
        kilobytes = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith(field):
                    kilobytes += int(line.split()[1])
        return kilobytes / 1024

    def stop(self):
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(20)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.child.wait()


# What runs so gives way to the load at once, as if it had a core of its own.
ASIDE = ["chrt", "--idle", "0"]


class Stub(Pinned):
    def __init__(self, folder, aside=False, **options):
        self.port = free_port()
        flags = [word for name, value in options.items() for word in (f"--{name}", value)]
        argv = [PEERS, "stub", "--listen", f"127.0.0.1:{self.port}", *flags]
        super().__init__(argv, LOAD_CORE, folder / f"stub-{self.port}.log", ASIDE if aside else ())
        wait_for_port(self.port, self.child)


def load_command(port, **options):
    flags = [str(word) for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    return [PEERS, "load", "--target", f"127.0.0.1:{port}", *flags]


def load(port, cores=LOAD_CORE, seconds=5, **options):
    """Runs the load to its end: what it counted and timed."""
    argv = ["taskset", "-c", cores, *load_command(port, seconds=seconds, **options)]
    # The load itself gives up ten seconds after its end.
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 30)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    return json.loads(done.stdout)


def filled(template, folder, **values):
    text = string.Template((HERE / "configs" / template).read_text()).safe_substitute(FOLDER=folder, **values)
    path = folder / template
    path.write_text(text)
    return path


class Proxy(Pinned):
    """Any of the proxies: `port` takes the traffic."""

    def __init__(self, argv, folder, port, cores=PROXY_CORE, prefix=()):
        self.folder, self.port, self.cores = folder, port, cores
        super().__init__(argv, cores, folder / "proxy.log", prefix)
        try:
            wait_for_port(port, self.child)
        except RuntimeError as error:
            raise RuntimeError(f"{error}: {(folder / 'proxy.log').read_text()[-2000:]}") from None

    def settle(self, expected=0):
        """Waits until nothing of the load is still being worked on; what was made of it, where that is counted."""
        return {}


def nginx(folder, prod, candidate=None):
    port = free_port()
    mirror = "mirror /mirror; mirror_request_body on;" if candidate else ""
    path = filled("nginx.conf", folder, PORT=port, PROD=prod, CANDIDATE=candidate or prod, MIRROR=mirror)
    return Proxy(["nginx", "-p", folder, "-c", path], folder, port)


def haproxy(folder, prod):
    port = free_port()
    return Proxy(["haproxy", "-f", filled("haproxy.cfg", folder, PORT=port, PROD=prod)], folder, port)


def envoy(folder, prod, candidate=None):
    port = free_port()
    mirror = ", request_mirror_policies: [{cluster: candidate}]" if candidate else ""
    path = filled("envoy.yaml", folder, PORT=port, PROD=prod, CANDIDATE=candidate or prod, MIRROR=mirror)
    argv = [ENVOY, "-c", path, "--concurrency", "1", "-l", "error", "--base-id", str(port), "--disable-hot-restart"]
    return Proxy(argv, folder, port)


def bare(folder, prod, candidate=None):
    """hyper's server before hyper's client, and nothing else: the floor of our stack."""
    port = free_port()
    mirror = ["--candidate", f"127.0.0.1:{candidate}"] if candidate else []
    argv = [PEERS, "bare", "--listen", f"127.0.0.1:{port}", "--prod", f"127.0.0.1:{prod}", *mirror]
    return Proxy(argv, folder, port)


# What becomes of candidates' calls, and the metrics that count it.
COUNTS = {
    "made": "pairs_total",
    "delivered": "pairs_delivered_total",
    "dropped": "pairs_dropped_total",
    "skipped": "shadow_skipped_total",
}


class Shadowpair(Proxy):
    """`shadows` are (percent, candidate port); `topic` is `BROKER_PORT/NAME`."""

    ended = 0

    def __init__(self, folder, prod, shadows=(), routes=1, topic=None, cores=PROXY_CORE, prefix=(), **limits):
        port, self.admin_port, self.shadows = free_port(), free_port(), shadows
        models = [f'  prod: {{endpoints: ["http://127.0.0.1:{prod}"]}}']
        legs = []
        for at, (percent, candidate) in enumerate(shadows):
            models.append(f'  c{at}: {{endpoints: ["http://127.0.0.1:{candidate}"]}}')
            legs.append(f"{{model: c{at}, percent: {percent}, timeout: 5s}}")
        shadow = f", shadow: [{', '.join(legs)}]" if legs else ""
        compare = ", compare: {values: [{name: y, at: /y, kind: number}]}" if legs else ""
        rules = [
            f"  - {{name: r{at}, match: {{path_prefix: /other/{at}}}, prod: prod{shadow}{compare}}}"
            for at in range(routes - 1)
        ]
        rules.append(f"  - {{name: all, match: {{path_prefix: /}}, prod: prod{shadow}{compare}}}")
        sink = f'  file: {{dir: "{folder}/pairs", keep: 1GiB}}'
        if topic:
            broker, name = topic.split("/")
            sink = f'  kafka: {{brokers: ["127.0.0.1:{broker}"], topic: {name}}}'
        listen = f"listen: 127.0.0.1:{port}, admin: 127.0.0.1:{self.admin_port}"
        bounds = ", ".join(f"{name}: {value}" for name, value in limits.items())
        text = f"version: 1\nserver: {{{listen}, limits: {{{bounds}}}}}\n"
        text += "models:\n" + "\n".join(models) + "\nroutes:\n" + "\n".join(rules) + "\n"
        text += f"pairs:\n{sink}\n" if legs else ""
        (folder / "shadowpair.yaml").write_text(text)
        argv = [SHADOWPAIR, "serve", "-c", folder / "shadowpair.yaml"]
        super().__init__(argv, folder, port, cores, prefix)
        wait_for_port(self.admin_port, self.child)

    def scrape(self):
        with DIRECT.open(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=30) as answer:
            return answer.read().decode()

    def series(self):
        """Every series: its name, its labels as text, its value."""
        for line in self.scrape().splitlines():
            if not line.startswith("#"):
                series, value = line.rsplit(" ", 1)
                name, _, labels = series.partition("{")
                yield name, labels, float(value)

    def sums(self):
        sums = {}
        for name, _, value in self.series():
            sums[name] = sums.get(name, 0) + value
        return sums

    def legs(self, role):
        """Calls to models that were made for this."""
        wanted = f'role="{role}"'
        legs = (found for found in self.series() if found[0] == "shadowpair_legs_total")
        return sum(value for _, labels, value in legs if wanted in labels)

    def settle(self, expected=0):
        """Until `expected` more candidates' calls have become pairs that were delivered or dropped, or were skipped;
        or until nothing has moved for a second and nothing is under way."""
        start = moved = time.monotonic()
        last = None
        while True:
            sums = self.sums()
            now = {short: sums.get(f"shadowpair_{name}", 0) for short, name in COUNTS.items()}
            ended = now["delivered"] + now["dropped"] + now["skipped"]
            if now != last:
                last, moved = now, time.monotonic()
            whole = not self.shadows or (expected > 0 and ended >= self.ended + expected)
            quiet = sums.get("shadowpair_in_flight", 0) == 0 and now["made"] == now["delivered"] + now["dropped"]
            if (quiet and (whole or time.monotonic() > moved + 1)) or time.monotonic() > start + 60:
                self.ended = ended
                return now
            time.sleep(0.05)


class Broker:
    def __init__(self, folder):
        self.folder, self.port, controller = folder, free_port(), free_port()
        self._script("fetch")
        try:
            self._script("start", folder, self.port, controller)
        except subprocess.CalledProcessError:
            self.stop()
            raise

    def _script(self, *arguments):
        argv = ["taskset", "-c", LOAD_CORE, BROKER, *map(str, arguments)]
        # Not captured: the broker keeps what it inherits open for as long as it lives.
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=180)

    def topic(self, name):
        self._script("topic", self.port, name, 3)
        return f"{self.port}/{name}"

    def stop(self):
        self._script("stop", self.folder)
