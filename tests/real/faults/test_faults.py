"""Faults of the broker, of the proxy and of the disk, under load, with the spool on: what was sent, what the proxy counts,
and what a reader of the topic finds. Each test leaves a line of the table that stands under the run."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from harness.broker import PARTITIONS, Broker
from harness.load import Arrived, Load, Watch
from harness.process import wait_until
from harness.stub import Reply

ROUTES = Path(__file__).parent / "routes.yaml"
RATE = 100
# How long "away for minutes" is.
AWAY = float(os.environ.get("SHADOWPAIR_AWAY_SECONDS", "125"))


def answer(_method, _path, _headers, _body):
    return Reply(b'{"score": 0.5}')


@pytest.fixture
def own_broker(tmp_path):
    """A broker that may be ill-treated."""
    broker = Broker(tmp_path / "broker").start()
    try:
        yield broker
    finally:
        broker.kill()


@pytest.fixture
def spooling(proxy, stub, tmp_path):
    """spooling(broker, topic) starts a proxy with a spool; its end is part of the test."""
    models = stub(answer), stub(answer)

    def start(broker, topic, spool=tmp_path / "spool", **environment):
        ports = {"PROD_PORT": models[0].port, "CANDIDATE_PORT": models[1].port}
        return proxy(ROUTES, "spool", BROKER_PORT=broker.port, TOPIC=topic, SPOOL_DIR=spool, **ports, **environment)

    return start


class Trial:
    """Load on a proxy, watched; in the end its books, those of earlier runs added, beside what arrived. On a busy machine a
    copy may be shed before it is one: then there is no pair of that request, and the proxy says so."""

    def __init__(self, proxy, rate=RATE):
        self.proxy, self.load, self.watch = proxy, Load(proxy, rate), Watch(proxy)
        # Of runs that have ended.
        self.delivered = 0

    def end(self, table, name, broker, topic, one_run=True):
        """Ends the load and waits until each pair has found its end; the last scrape, and what arrived."""
        answered = self.load.stop()

        def settled():
            scrape = self.proxy.metrics()
            began = scrape.made + scrape.sum("shadowpair_shadow_skipped_total")
            ended = scrape.waiting == 0 and scrape.sum("shadowpair_in_flight") == 0
            return scrape if ended and (began == answered or not one_run) else None

        try:
            scrape = wait_until(settled, "every pair to find its end")
        except AssertionError:
            print(f"{answered} answered; {self.proxy.metrics().text}")
            raise
        self.watch.stop()
        arrived = Arrived(broker.read(topic))
        table(name, answered, self.delivered + scrape.delivered, arrived)
        assert set(self.load.statuses) == {200}, self.load.statuses
        if one_run:
            assert self.load.refused + self.load.broken == 0
        return scrape, arrived


def assert_nothing_lost(scrape, arrived):
    """Made, counted as delivered, and found, all the same number; each `seq` there is."""
    assert scrape.made > 0 and (scrape.delivered, scrape.dropped) == (scrape.made, 0)
    assert (arrived.found, arrived.all_gaps) == (scrape.made, 0)


def test_broker_killed_and_restarted(spooling, own_broker, table):
    topic = own_broker.topic("pairs")
    one = spooling(own_broker, topic)
    trial = Trial(one)
    for _ in range(2):
        trial.load.goes_on(RATE)
        own_broker.kill()
        wait_until(lambda: one.metrics().sum("shadowpair_spool_pairs") >= 2 * RATE, "pairs to be spooled")
        own_broker.start()
    trial.load.goes_on(RATE)
    assert_nothing_lost(*trial.end(table, "broker killed twice", own_broker, topic))
    one.stop()


def test_broker_away_for_minutes(spooling, own_broker, table):
    topic = own_broker.topic("pairs")
    one = spooling(own_broker, topic)
    trial = Trial(one)
    trial.load.goes_on(RATE)
    own_broker.stop()
    memory = one.metrics().sum("shadowpair_shadow_bytes")
    trial.load.goes_on(int(AWAY * RATE))
    scrape = one.metrics()
    assert scrape.sum("shadowpair_spool_pairs") > 0.9 * AWAY * RATE and scrape.sum("shadowpair_sink_up") == 0
    # On disk, not in memory.
    assert scrape.sum("shadowpair_shadow_bytes") < memory + (24 << 20)
    assert scrape.sum("shadowpair_pairs_oldest_seconds") > 0.5 * AWAY
    own_broker.start()
    trial.load.goes_on(RATE)
    assert_nothing_lost(*trial.end(table, f"broker away for {AWAY:.0f} s", own_broker, topic))
    assert one.metrics().sum("shadowpair_sink_up") == 1
    one.stop()


def test_broker_frozen(spooling, own_broker, table):
    topic = own_broker.topic("pairs")
    one = spooling(own_broker, topic)
    trial = Trial(one)
    trial.load.goes_on(RATE)
    own_broker.signal(signal.SIGSTOP)
    # Longer than it takes to see that no report comes.
    wait_until(lambda: one.metrics().sum("shadowpair_sink_up") == 0, "the sink to be seen as down")
    trial.load.goes_on(RATE)
    own_broker.signal(signal.SIGCONT)
    trial.load.goes_on(RATE)
    assert_nothing_lost(*trial.end(table, "broker frozen", own_broker, topic))
    one.stop()


def test_slow_broker(spooling, own_broker, table):
    """It runs for a tenth of the time, as one with long pauses for garbage."""
    topic = own_broker.topic("pairs")
    one = spooling(own_broker, topic)
    trial = Trial(one)
    ending = threading.Event()

    def toggle():
        while not ending.is_set():
            own_broker.signal(signal.SIGSTOP)
            ending.wait(0.45)
            own_broker.signal(signal.SIGCONT)
            ending.wait(0.05)

    slow = threading.Thread(target=toggle)
    slow.start()
    try:
        trial.load.goes_on(20 * RATE)
    finally:
        ending.set()
        slow.join()
    assert_nothing_lost(*trial.end(table, "slow broker", own_broker, topic))
    one.stop()


@pytest.mark.parametrize("again", ["at once", "when it is missed"])
def test_topic_deleted(spooling, own_broker, table, again):
    topic = own_broker.topic("pairs")
    one = spooling(own_broker, topic)
    trial = Trial(one)
    trial.load.goes_on(RATE)
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{own_broker.port}"})
    admin.delete_topics([topic])[topic].result(30)
    # What was delivered until then is gone with it.
    wait_until(lambda: one.metrics().sum("shadowpair_spool_pairs") >= RATE, "pairs to be spooled")
    if again == "when it is missed":
        missed = f"the topic `{topic}` does not exist"
        wait_until(lambda: missed in one.process.log.read_text(), "the topic to be missed", 60)
    before = one.metrics().delivered
    trial.load.goes_on(RATE)
    assert one.metrics().delivered == before
    admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result(30)
    trial.load.goes_on(RATE)
    scrape, arrived = trial.end(table, f"topic deleted, made again {again}", own_broker, topic)
    assert (scrape.delivered, scrape.dropped) == (scrape.made, 0)
    # And nothing else: each pair of later is in the new topic.
    assert arrived.found == scrape.made - before, arrived.gaps(next(iter(arrived.seqs)))
    one.stop()


@pytest.mark.parametrize("broker_state", ["up", "away"])
def test_proxy_killed(spooling, own_broker, table, broker_state):
    topic = own_broker.topic("pairs")
    one = spooling(own_broker, topic)
    trial = Trial(one)
    trial.load.goes_on(RATE)
    if broker_state == "away":
        own_broker.stop()
    trial.load.goes_on(3 * RATE)
    made = one.metrics().made
    # Twice the time of a commit: all that was made by then is on disk or delivered.
    time.sleep(0.2)
    before = one.metrics()
    one.process.kill()
    if broker_state == "away":
        own_broker.start()
    one.start()
    trial.load.goes_on(3 * RATE)
    trial.delivered = before.delivered
    # What one run has made is not in the books of the next, but what it left is.
    scrape, arrived = trial.end(table, f"proxy killed, broker {broker_state}", own_broker, topic, one_run=False)
    assert scrape.dropped == 0
    recovered = scrape.sum("shadowpair_pairs_recovered_total")
    assert recovered > 0 or broker_state == "up"
    runs = sorted(arrived.seqs, key=lambda producer: len(arrived.seqs[producer]))
    first = next(producer for producer in runs if max(arrived.seqs[producer]) != scrape.made)
    assert len(runs) == 2
    assert arrived.gaps(first, int(made)) == [], "what was made 200 ms before the kill is there"
    second = next(producer for producer in runs if producer != first)
    assert arrived.gaps(second, int(scrape.made)) == []
    one.stop()


def said_at_the_end(proxy):
    [drained] = [json.loads(line) for line in proxy.process.log.read_text().splitlines() if '"drained"' in line]
    return drained


@pytest.mark.parametrize("broker_state", ["up", "away"])
def test_proxy_drained(spooling, own_broker, table, broker_state):
    topic = own_broker.topic("pairs")
    one = spooling(own_broker, topic)
    trial = Trial(one)
    trial.load.goes_on(RATE)
    if broker_state == "away":
        own_broker.stop()
    trial.load.goes_on(3 * RATE)
    assert one.process.stop() == 0, one.process.tail()
    drained = said_at_the_end(one)
    # What it delivered while it drained no scrape has seen; what it made, the topic shows.
    assert (drained["pairs_dropped"], drained["pairs_spooled"] > 0) == (0, broker_state == "away"), drained
    if broker_state == "away":
        own_broker.start()
    one.start()
    trial.load.goes_on(RATE)
    scrape, arrived = trial.end(table, f"proxy drained, broker {broker_state}", own_broker, topic, one_run=False)
    assert scrape.dropped == 0
    assert scrape.sum("shadowpair_pairs_recovered_total") == drained["pairs_spooled"]
    # No `seq` is missing below the last of either run, and of the second run the last is known.
    [first] = [producer for producer in arrived.seqs if len(arrived.seqs) == 2 and max(arrived.seqs[producer]) != scrape.made]
    assert (arrived.found, arrived.all_gaps) == (max(arrived.seqs[first]) + scrape.made, 0)
    one.stop()


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.fail(f"needs the right to mount a tmpfs: {done.stderr}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_disk_full(spooling, own_broker, small_disk, table):
    topic = own_broker.topic("pairs")
    # The Kafka client holds so few that the rest waits in the proxy's own memory.
    one = spooling(own_broker, topic, spool=small_disk / "spool", CLIENT_PAIRS=100)
    trial = Trial(one)
    trial.load.goes_on(RATE)
    own_broker.stop()
    wait_until(lambda: one.metrics().sum("shadowpair_sink_errors_total", kind="disk_full") > 0, "the disk to be full", 120)
    trial.load.goes_on(RATE)
    scrape = one.metrics()
    # In memory now, and nothing is dropped yet.
    assert scrape.sum("shadowpair_spool_pairs") > 0 and scrape.sum("shadowpair_pairs_queue_depth") > 0
    wait_until(lambda: one.metrics().dropped > 0, "pairs to be given up after a while", 120)
    own_broker.start()
    trial.load.goes_on(RATE)
    scrape, arrived = trial.end(table, "disk full", own_broker, topic)
    assert scrape.by("shadowpair_pairs_dropped_total", "reason").keys() == {"disk"}
    assert (scrape.delivered + scrape.dropped, scrape.delivered) == (scrape.made, arrived.found)
    # A gap is a lost pair, and counted.
    [producer] = arrived.seqs
    assert len(arrived.gaps(producer, int(scrape.made))) == scrape.dropped
    one.stop()


def test_spool_full(spooling, own_broker, table):
    topic = own_broker.topic("pairs")
    one = spooling(own_broker, topic, SPOOL_MAX="1MiB")
    trial = Trial(one)
    trial.load.goes_on(RATE)
    own_broker.stop()
    wait_until(lambda: one.metrics().sum("shadowpair_pairs_dropped_total", reason="spool_full") > RATE, "a full spool", 120)
    scrape = one.metrics()
    assert scrape.sum("shadowpair_spool_bytes") <= scrape.sum("shadowpair_spool_limit_bytes") == 1 << 20
    own_broker.start()
    trial.load.goes_on(RATE)
    scrape, arrived = trial.end(table, "spool full", own_broker, topic)
    assert scrape.by("shadowpair_pairs_dropped_total", "reason").keys() == {"spool_full"}
    assert (scrape.delivered + scrape.dropped, scrape.delivered) == (scrape.made, arrived.found)
    [producer] = arrived.seqs
    assert len(arrived.gaps(producer, int(scrape.made))) == scrape.dropped
    one.stop()


def test_damaged_segment(spooling, own_broker, tmp_path, table):
    topic = own_broker.topic("pairs")
    own_broker.stop()
    one = spooling(own_broker, topic)
    trial = Trial(one)
    trial.load.goes_on(3 * RATE)
    assert one.process.stop() == 0
    drained = said_at_the_end(one)
    [segment] = (tmp_path / "spool").glob("*.seg")
    damaged = bytearray(segment.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    segment.write_bytes(damaged)
    # A copy of a segment that is not ours to begin with.
    shutil.copy(ROUTES, segment.with_name(f"spool-{1:016}-someone.seg"))

    own_broker.start()
    one.start()
    # Taken over a segment a turn, after the start.
    recovered = lambda: one.metrics().sum("shadowpair_pairs_recovered_total") == drained["pairs_spooled"]
    wait_until(recovered, "what was left to be taken over")
    scrape, arrived = trial.end(table, "segment damaged", own_broker, topic, one_run=False)
    spooled = drained["pairs_spooled"]
    assert scrape.by("shadowpair_pairs_dropped_total", "reason") == {"corrupt": 1}
    assert (arrived.found, arrived.all_gaps) == (spooled - 1 + scrape.made, 1)
    assert len(list((tmp_path / "spool").glob("*.corrupt"))) == 2
    assert list((tmp_path / "spool").glob("*.seg")) == [] or scrape.sum("shadowpair_spool_pairs") == 0
    told = [json.loads(line) for line in one.process.log.read_text().splitlines() if "damaged segment" in line]
    assert sorted(line["lost"] for line in told) == [0, 1]
    one.stop()
