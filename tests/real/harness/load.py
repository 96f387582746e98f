"""Steady traffic from other threads while a test makes its faults, and what became of it all in the end."""

import http.client
import json
import threading
import time
from collections import Counter, defaultdict

from .process import wait_until


class Load:
    """`rate` requests a second from a few threads, until it is stopped. Remembers each answer's status; a proxy that is
    gone is asked again until it is back."""

    THREADS = 4

    def __init__(self, proxy, rate, body=b'{"x": 1}'):
        self.proxy, self.rate, self.pause, self.body = proxy, rate, self.THREADS / rate, body
        self.statuses, self.refused, self.broken = Counter(), 0, 0
        self.lock, self.ending = threading.Lock(), threading.Event()
        self.threads = [threading.Thread(target=self._run, daemon=True) for _ in range(self.THREADS)]
        for thread in self.threads:
            thread.start()

    def _run(self):
        due = time.monotonic()
        while not self.ending.wait(max(0, due - time.monotonic())):
            due += self.pause
            try:
                status = self.proxy.ask("POST", "/score", self.body).status
                with self.lock:
                    self.statuses[status] += 1
            except ConnectionRefusedError:
                with self.lock:
                    self.refused += 1
            except (OSError, http.client.HTTPException):
                with self.lock:
                    self.broken += 1

    @property
    def sent(self):
        """Requests that were answered."""
        with self.lock:
            return sum(self.statuses.values())

    def goes_on(self, count):
        """Waits until so many more are answered."""
        goal = self.sent + count
        wait_until(lambda: self.sent >= goal, f"{count} more answers", 60 + 2 * count / self.rate)

    def stop(self):
        self.ending.set()
        for thread in self.threads:
            thread.join(60)
        return self.sent


class Watch:
    """Scrapes all the time, and holds every scrape to the sum that the contract promises."""

    def __init__(self, proxy):
        self.proxy, self.faults, self.scrapes = proxy, [], 0
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while not self.ending.wait(0.1):
            try:
                scrape = self.proxy.metrics()
            except OSError:
                # Gone for the moment: the next one counts.
                continue
            self.scrapes += 1
            try:
                scrape.assert_sum_holds()
            except AssertionError as error:
                self.faults.append(str(error))

    def stop(self):
        self.ending.set()
        self.thread.join(60)
        assert self.scrapes > 0 and not self.faults, self.faults[:1]


class Arrived:
    """What a reader of the topic finds: pairs by producer, and what came twice."""

    def __init__(self, messages):
        self.pairs = [json.loads(message.value()) for message in messages]
        self.by_id = {}
        for pair in self.pairs:
            # A pair that is sent again is the same.
            assert self.by_id.setdefault(pair["id"], pair) == pair
        self.seqs = defaultdict(set)
        for pair in self.by_id.values():
            self.seqs[pair["producer"]].add(pair["seq"])

    @property
    def found(self):
        return len(self.by_id)

    @property
    def duplicates(self):
        return len(self.pairs) - len(self.by_id)

    def gaps(self, producer, last=None):
        """The `seq`s up to the last that are not there."""
        seqs = self.seqs[producer]
        return sorted(set(range(1, (last or max(seqs, default=0)) + 1)) - seqs)

    @property
    def all_gaps(self):
        return sum(len(self.gaps(producer)) for producer in self.seqs)
