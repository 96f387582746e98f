"""Child processes, free ports and waiting."""

import os
import random
import signal
import socket
import subprocess
import time
import urllib.request

# Loopback needs no proxy, whatever the environment says.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fetch(port, path):
    """The body of a good answer to a GET; anything else raises an OSError."""
    with _DIRECT.open(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return answer.read().decode()


def wait_until(condition, what, seconds=60):
    """Polls until the condition gives something true, and returns that. The only place that sleeps."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for: {what}"
        time.sleep(0.02)
    return found


_given = set()


def free_port():
    """A port to listen on, another one each time: below the range from which outgoing connections take theirs, so that
    none of them takes it before its owner binds it."""
    while True:
        port = random.randint(20000, 32000)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port


class Process:
    """A child in a session of its own; its standard error and output go to a file."""

    def __init__(self, argv, log, **options):
        self.log = log
        with open(log, "ab") as out:
            self.child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, **options
            )

    def alive(self):
        return self.child.poll() is None

    def tail(self, lines=40):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, seconds=60):
        """SIGTERM to the process, its exit status; what is left of its group is killed."""
        if self.alive():
            self.child.terminate()
        try:
            return self.child.wait(seconds)
        finally:
            self.kill()

    def kill(self):
        """Ends whatever is left of the group."""
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.child.wait()
