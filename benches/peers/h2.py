"""A few long-lived HTTP/2 clients (h2load, from nghttp2) over both workers: do the workers share them?"""

import subprocess
import tempfile
from pathlib import Path

import parts
from trial import Subject

CLIENTS = 8
STREAMS = 16


def body(size):
    """JSON of about this many bytes."""
    return '{"id":"fixed","model":"iris","data":[%s0]}' % ("10.7919," * ((size - 42) // 8))


class H2Subject(Subject):
    def drive(self, setting, proxy, seconds):
        with tempfile.TemporaryDirectory(prefix="shadowpair-peers-") as folder:
            folder = Path(folder)
            (folder / "body").write_text(body(955))
            argv = [
                "taskset", "-c", parts.LOAD_CORE, "h2load", "-t", "1", "-c", CLIENTS, "-m", STREAMS,
                "-D", f"{seconds * 1000:.0f}ms", "-d", folder / "body", "-H", "content-type: application/json",
                "--log-file", folder / "log",
                *(["--rps", max(self.rate // CLIENTS, 1)] if self.rate else []),
                f"http://127.0.0.1:{proxy.port}/v1/models/iris:predict",
            ]
            done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, timeout=seconds + 60)
            if done.returncode != 0:
                raise RuntimeError(done.stderr.strip())
            return counted((folder / "log").read_text(), seconds)

    def before(self, proxy):
        self.tasks = proxy.tasks()

    def look(self, setting, proxy, result):
        """The busiest worker's CPU against the mean of all."""
        workers = {task: seconds for task, seconds in proxy.tasks().items() if task[1] == "shadowpair-work"}
        each = result["workers"] = [seconds - self.tasks.get(task, 0) for task, seconds in workers.items()]
        result["balance"] = max(each) * len(each) / max(sum(each), 1e-9)


def counted(log, seconds):
    """What `parts.load` says of its requests, from h2load's line for each: start, status, microseconds."""
    rows = [line.split("\t") for line in log.splitlines()]
    times = sorted(int(row[2]) for row in rows)
    if not times:
        raise RuntimeError("h2load had no answer")
    at = lambda share: float(times[min(int(len(times) * share), len(times) - 1)])
    return {
        "sent": len(rows), "answered": len(rows), "counted": len(rows), "broken": 0,
        "not_ok": sum(row[1] != "200" for row in rows), "rps": len(rows) / seconds,
        "mean_us": sum(times) / len(times), "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999),
        "max_us": float(times[-1]),
    }
