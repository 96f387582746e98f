"""The proxy, started as its users start it: `shadowpair serve -c FILE`."""

import http.client
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow

from .metrics import Scrape
from .process import Process, fetch, free_port, wait_until
from .program import BINARY
from .schema import assert_valid, read_yaml

HERE = Path(__file__).parent


@dataclass
class Answer:
    """What the client got; header names in lower case."""

    status: int
    headers: dict
    body: bytes

    @property
    def request_id(self):
        return self.headers["x-request-id"]


class Proxy:
    """`routes` is a file with the models and routes; `sink` is `file`, `kafka` or a file of one's own; `environment` fills in the `${NAME}`s
    of both, as in a deployment; `wrap` is a command that runs it."""

    def __init__(self, folder, routes, sink="file", wrap=(), **environment):
        self.folder = folder
        self.wrap = wrap
        self.pairs_dir = Path(environment.get("PAIRS_DIR", folder / "pairs"))
        self.port, self.admin_port = free_port(), free_port()
        self.routing = folder / "shadowpair.yaml"
        parts = [HERE / "server.yaml", routes, sink if isinstance(sink, Path) else HERE / f"{sink}.yaml"]
        self.routing.write_text("\n".join(part.read_text() for part in parts))
        assert_valid("routing", read_yaml(self.routing.read_text()))
        own = {
            "TRAFFIC_PORT": self.port,
            "ADMIN_PORT": self.admin_port,
            "PAIRS_DIR": self.pairs_dir,
            "HASH_KEY": "not a secret",
            "SUITE": routes.parent.name,
        }
        self.environment = {k: str(v) for k, v in {**os.environ, **own, **environment}.items()}
        self.local = threading.local()
        self.process = None

    def start(self):
        argv = [*self.wrap, BINARY, "serve", "-c", self.routing]
        self.process = Process(argv, self.folder / "proxy.log", env=self.environment, cwd=self.folder)
        wait_until(self.ready, "the proxy to be ready", 30)
        return self

    def ready(self):
        assert self.process.alive(), f"the proxy ended:\n{self.process.tail()}"
        try:
            return self.admin("/readyz") is not None
        except OSError:
            return False

    def log(self):
        """What it has logged: a list of objects."""
        lines = self.process.log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def admin(self, path):
        return fetch(self.admin_port, path)

    def metrics(self):
        return Scrape(self.admin("/metrics"))

    def ask(self, method, path, body=None, headers=None):
        """One request over this thread's kept connection."""
        if not hasattr(self.local, "connection"):
            self.local.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            self.local.connection.request(method, path, body, headers or {})
            answer = self.local.connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())
        except Exception:
            # The next request begins with a fresh one.
            self.local.connection.close()
            raise

    def ask_all(self, requests, at_once=8):
        """Answers in the order of the requests: tuples for `ask`."""
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(lambda request: self.ask(*request), requests))

    def settled(self, made):
        """Waits until so many pairs are made and each has found its end; a scrape of then."""

        def settled():
            scrape = self.metrics()
            return scrape.made >= made and scrape.waiting == 0

        wait_until(settled, f"{made} pairs to be made and delivered")
        # Once more: a scrape reads its families one after another, and the first that shows the last pair as delivered may
        # have read before whether the sink is up.
        scrape = self.metrics()
        assert scrape.made == made, scrape.text
        scrape.assert_sum_holds()
        return scrape

    def pair_lines(self):
        """Every line of the file sink, as bytes without its end."""
        lines = []
        for file in sorted(self.pairs_dir.glob("pairs-*")):
            # Unpacks what its name says is packed.
            with pyarrow.input_stream(str(file)) as stream:
                lines += stream.read().splitlines()
        return lines

    def pairs(self):
        return [json.loads(line) for line in self.pair_lines()]

    def stop(self):
        """A clean end: the promises that hold at any time hold at the last moment too."""
        if self.process is None or self.process.child.returncode is not None:
            return
        if self.process.alive():
            assert self.ready()
            wait_until(lambda: self.metrics().sum("shadowpair_in_flight") == 0, "nothing to be in flight")
            self.metrics().assert_sum_holds()
        status = self.process.stop()
        log = self.process.log.read_text(errors="replace")
        assert "panicked" not in log, log
        assert status == 0, f"exit status {status}:\n{log}"
        for pair in self.pairs():
            assert_valid("pair", pair)
