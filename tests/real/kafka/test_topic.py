"""The topic: made at the start and again where the routing file says so, else asked for in one line."""

import json
import re
from pathlib import Path

import pytest

from harness.broker import Broker
from harness.process import wait_until
from harness.stub import Reply

ROUTES = Path(__file__).parent / "routes.yaml"
TOPICS = "org.apache.kafka.tools.TopicCommand"
_names = iter(range(1, 1000))


@pytest.fixture
def serve(proxy, stub, tmp_path):
    """serve(broker, topic, create_topic) starts the proxy."""

    def start(broker, topic, create=None):
        lines = ["pairs:", "  kafka:", f'    brokers: ["127.0.0.1:{broker.port}"]', f"    topic: {topic}"]
        lines += [f"    create_topic: {create}"] if create else []
        sink = tmp_path / "sink.yaml"
        sink.write_text("\n".join([*lines, ""]))
        model = stub(lambda *_: Reply(b'{"score": 1}'))
        return proxy(ROUTES, sink, PROD_PORT=model.port, CANDIDATE_PORT=model.port)

    return start


@pytest.fixture
def name():
    return f"made-{next(_names)}"


def ask(proxy, count):
    answers = proxy.ask_all([("POST", f"/score/{i}", b"{}", {}) for i in range(count)])
    assert {answer.status for answer in answers} == {200}


def described(broker, topic):
    """Partitions, and the settings of its own."""
    text = broker.tool(TOPICS, "--describe", "--topic", topic)
    return int(re.search(r"PartitionCount:\s*(\d+)", text)[1]), re.search(r"Configs:\s*(\S*)", text)[1]


def warnings(proxy):
    """What shadowpair itself warns of; a broker that has just begun makes librdkafka say so."""
    return [line for line in proxy.log() if line["level"] == "WARN" and not line["message"].startswith("librdkafka: ")]


def test_a_topic_is_made_as_the_file_says(serve, broker, name):
    one = serve(broker, name, "{partitions: 5, replication: 1, retention: 7d}")
    ask(one, 20)
    scrape = one.settled(20)
    assert (scrape.delivered, scrape.dropped) == (20, 0)
    partitions, settings = described(broker, name)
    assert (partitions, "retention.ms=604800000" in settings) == (5, True)
    assert len(broker.read(name, 5)) == 20
    assert warnings(one) == []


def test_a_topic_that_is_another_is_told_once_and_left_alone(serve, broker, name):
    broker.topic(name)
    before = described(broker, name)
    one = serve(broker, name, "{partitions: 12, replication: 1, retention: 1d}")
    ask(one, 5)
    one.settled(5)
    assert described(broker, name) == before
    [line] = warnings(one)
    assert "create_topic" in line["message"]
    assert (line["partitions"], line["wanted_partitions"], line["wanted_retention_ms"]) == (3, 12, "86400000")


def test_a_missing_topic_is_told_with_the_command_that_makes_it(serve, broker, name):
    one = serve(broker, name)
    ask(one, 10)
    wait_until(lambda: one.metrics().sum("shadowpair_sink_errors_total", kind="unknown_topic") >= 2, "it to be missed")
    scrape = one.metrics()
    assert (scrape.waiting, scrape.sum("shadowpair_sink_up")) == (10, 0)
    [line] = warnings(one)
    command = re.search(r"kafka-topics\.sh ([^`]*)`", line["cause"])[1]
    assert "pairs.kafka.create_topic" in line["cause"] and "pairs wait" in line["cause"]
    # One broker cannot keep three copies; all else as it was said.
    command = command.replace("--replication-factor 3", "--replication-factor 1")
    at = f"--bootstrap-server 127.0.0.1:{broker.port}"
    assert at in command
    broker.tool(TOPICS, *command.replace(at, "").split())
    scrape = one.settled(10)
    assert (scrape.delivered, scrape.dropped) == (10, 0)
    assert len(broker.read(name, 6)) == 10


def test_more_replicas_than_brokers_is_told(serve, broker, name):
    one = serve(broker, name, "{replication: 3}")
    ask(one, 3)
    wait_until(lambda: one.metrics().sum("shadowpair_sink_errors_total", kind="unknown_topic") >= 2, "it to be refused")
    [line] = warnings(one)
    assert "create_topic.replication" in line["cause"]
    broker.tool(TOPICS, "--create", "--topic", name, "--partitions", "3")
    one.settled(3)


def test_a_topic_that_was_deleted_under_load_is_made_again(serve, broker, name):
    one = serve(broker, name, "{partitions: 2, replication: 1}")
    ask(one, 20)
    one.settled(20)
    broker.tool(TOPICS, "--delete", "--topic", name)
    ask(one, 20)
    wait_until(lambda: one.metrics().made == 40, "40 pairs to be made")
    ask(one, 20)
    scrape = one.settled(60)
    assert scrape.dropped == 0
    assert described(broker, name)[0] == 2
    # What came after the deletion stands there, whole.
    seqs = {json.loads(message.value())["seq"] for message in broker.read(name, 2)}
    assert seqs >= set(range(41, 61)), seqs


def test_a_topic_is_made_when_the_broker_comes(serve, tmp_path, name):
    broker = Broker(tmp_path / "broker")
    try:
        one = serve(broker, name, "{partitions: 4, replication: 1}")
        ask(one, 10)
        broker.start(on_these_ports=True)
        one.settled(10)
        assert described(broker, name)[0] == 4
        one.stop()
    finally:
        broker.kill()
