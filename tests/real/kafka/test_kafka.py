"""Pairs in a real Kafka, read back by clients that are not ours, against what the models saw and answered."""

import base64
import json
import signal
import zlib
from collections import Counter
from pathlib import Path

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event

from harness.broker import PARTITIONS, Broker
from harness.process import wait_until
from harness.stub import Reply

ROUTES = Path(__file__).parent / "routes.yaml"
TOLERANCE = 0.01


def score(body):
    """A number that only the body decides."""
    return zlib.crc32(body) % 1000 / 1000


def prod(_method, path, _headers, body):
    if path.startswith("/score/refused"):
        return Reply(b'{"error": "no such input"}', 422)
    return Reply(json.dumps({"score": score(body), "by": "prod"}).encode())


def candidate(_method, path, _headers, body):
    """Now and then it fails, answers what is not JSON, or is a little or far off."""
    if path.startswith("/score/refused"):
        return Reply("größer als erlaubt".encode(), 400, "text/plain; charset=utf-8")
    match zlib.crc32(body) % 7:
        case 0:
            return Reply(b"out of memory", 500, "text/plain")
        case 1:
            return Reply(bytes(range(256)), 200, "application/octet-stream")
        case 2:
            return Reply(json.dumps({"score": score(body) + 0.004, "by": "candidate"}).encode())
        case 3:
            return Reply(json.dumps({"score": score(body) + 0.5, "by": "candidate"}).encode())
        case _:
            return Reply(json.dumps({"score": score(body), "by": "candidate"}).encode())


def requests(count):
    """Every kind of body, with and without a customer, an id of the client's own, and a trace."""
    for i in range(count):
        headers = {}
        if i % 5:
            headers["x-customer"] = f"kundin-{i % 11}"
        if i % 2:
            headers["x-request-id"] = f"own-{i}"
        if i % 3 == 0:
            headers["traceparent"] = f"00-{i + 1:032x}-{i + 1:016x}-01"
        path = f"/score/refused?n={i}" if i % 13 == 0 else f"/score/{i}?q=a%20b"
        match i % 4:
            case 0:
                yield "POST", path, json.dumps({"x": i, "ü": ["🦀"]}).encode(), {"content-type": "application/json", **headers}
            case 1:
                yield "POST", path, f"Zeile {i}\n".encode(), {"content-type": "text/plain", **headers}
            case 2:
                yield "POST", path, bytes([255, 0, i % 256]) * 50, {"content-type": "application/octet-stream", **headers}
            case 3:
                yield "GET", path, None, headers


def recorded(body):
    """A recorded body as bytes again."""
    assert not body["truncated"]
    match body["encoding"]:
        case "json" | "utf8":
            return body["data"].encode()
        case "base64":
            return base64.b64decode(body["data"], validate=True)
        case "none":
            assert (body["data"], body["reason"]) == (None, "empty")
            return b""


def expected_result(prod_reply, candidate_reply):
    """The same judgement, made here from the two answers."""
    failed = prod_reply.status >= 400, candidate_reply.status >= 400
    if any(failed):
        return {(True, True): "both_failed", (True, False): "prod_failed", (False, True): "candidate_failed"}[failed]
    try:
        difference = abs(json.loads(prod_reply.body)["score"] - json.loads(candidate_reply.body)["score"])
    except ValueError:
        return "uncompared"
    return "equal" if difference == 0 else "within_tolerance" if difference <= TOLERANCE else "differs"


def murmur2_partition(key):
    """Where a Java producer would put this key, so that streams keyed alike join (Kafka's Utils.murmur2)."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = 0x9747B28C ^ len(key)
    whole = len(key) // 4 * 4
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = h * m & mask ^ k
    if tail := key[whole:]:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    h ^= h >> 15
    return (h & 0x7FFFFFFF) % PARTITIONS


@pytest.fixture
def models(stub):
    return stub(prod), stub(candidate)


@pytest.fixture
def serve(proxy, models):
    """serve(broker, topic) starts the proxy before the two stubs."""

    def start(broker, topic):
        ports = {"PROD_PORT": models[0].port, "CANDIDATE_PORT": models[1].port}
        return proxy(ROUTES, "kafka", BROKER_PORT=broker.port, TOPIC=topic, **ports)

    return start


def assert_leg(leg, call, reply, role):
    assert (leg["role"], leg["status"]) == (role, reply.status)
    assert leg["outcome"] == ("ok" if reply.status < 400 else "http_error")
    assert leg["content_type"] == reply.content_type
    assert leg["bytes"] == len(reply.body)
    assert recorded(leg["body"]) == reply.body
    assert (leg["endpoint"] is not None) and call.path


def test_every_message_is_what_the_models_saw_and_answered(serve, models, broker, topic):
    sent = list(requests(300))
    one = serve(broker, topic)
    answers = one.ask_all(sent)
    scrape = one.settled(len(sent))
    assert (scrape.delivered, scrape.dropped) == (len(sent), 0)

    messages = broker.read(topic)
    assert len(messages) == len(sent)
    asked = {answer.request_id: (request, answer) for request, answer in zip(sent, answers)}
    at_prod, at_candidate = models[0].by_request_id(), models[1].by_request_id()
    assert asked.keys() == at_prod.keys() == at_candidate.keys()

    pairs = []
    for message in messages:
        pair = json.loads(message.value())
        pairs.append(pair)
        (method, path, body, headers), answer = asked.pop(pair["request_id"])
        prod_call, candidate_call = at_prod[pair["request_id"]], at_candidate[pair["request_id"]]

        # What was asked: the client's bytes, at both models and in the record.
        assert recorded(pair["request"]["body"]) == prod_call.body == candidate_call.body == (body or b"")
        assert (prod_call.method, prod_call.path) == (candidate_call.method, candidate_call.path) == (method, path)
        query = pair["request"]["query"]
        assert (pair["request"]["method"], f"{pair['request']['path']}?{query}") == (method, path)
        assert pair["request"]["content_type"] == headers.get("content-type")
        assert pair["request"]["bytes"] == len(body or b"")
        assert pair["traceparent"] == headers.get("traceparent") == prod_call.headers.get("traceparent")
        assert (prod_call.role, candidate_call.role) == ("prod", "shadow")

        # What was answered: prod's to the client, both in the record.
        assert (answer.status, answer.body) == (prod_call.reply.status, prod_call.reply.body)
        assert_leg(pair["prod"], prod_call, prod_call.reply, "prod")
        assert_leg(pair["candidate"], candidate_call, candidate_call.reply, "shadow")
        assert pair["result"] == expected_result(prod_call.reply, candidate_call.reply), pair

        # What a Kafka consumer sees around it.
        customer = headers.get("x-customer")
        assert pair["keys"] == {"customer": customer}
        assert message.key() == (customer or pair["request_id"]).encode()
        assert message.partition() == murmur2_partition(message.key())
        assert_cloud_event(message, pair)

    assert not asked
    assert len({pair["id"] for pair in pairs}) == len(sent)
    assert sorted(pair["seq"] for pair in pairs) == list(range(1, len(sent) + 1))
    results = Counter(pair["result"] for pair in pairs)
    assert set(results) == {
        "equal", "within_tolerance", "differs", "uncompared", "candidate_failed", "both_failed"
    }, "the traffic must show them all"
    assert scrape.by("shadowpair_pairs_total", "result") == results


def assert_cloud_event(message, pair):
    headers = message.headers()
    assert len(dict(headers)) == len(headers), "a header came twice"
    event = from_binary_event(KafkaMessage(dict(headers), message.key(), message.value()))
    assert event.get_specversion() == "1.0"
    assert event.get_id() == pair["id"]
    assert event.get_source() == f"/shadowpair/{pair['producer']}"
    assert event.get_type() == "io.shadowpair.pair.v1"
    assert event.get_subject() == pair["route"] == "score"
    assert event.get_datacontenttype() == "application/json"
    assert event.get_time().strftime("%Y-%m-%dT%H:%M:%S.%fZ") == pair["time"]
    assert event.get_data() == pair


def test_compare_reads_the_topic(serve, broker, topic, shadowpair, tmp_path):
    one = serve(broker, topic)
    one.ask_all(requests(120))
    results = one.settled(120).by("shadowpair_pairs_total", "result")

    done = shadowpair("compare", broker.url(topic), "--json", tmp_path / "report.json")
    assert done.returncode == 0, done.stderr
    assert "candidate" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["read"]["pairs"] == 120
    assert (report["read"]["missing"], report["read"]["duplicates"], report["read"]["unreadable"]) == (0, 0, 0)
    [group] = report["groups"]
    assert {name: share["count"] for name, share in group["results"].items() if share["count"]} == results
    agreed, compared = results["equal"] + results["within_tolerance"], results["differs"]
    assert (group["agreement"]["count"], group["agreement"]["n"]) == (agreed, agreed + compared)


def test_compare_says_which_topic_is_missing(broker, shadowpair):
    done = shadowpair("compare", broker.url("no-such-topic"))
    assert done.returncode != 0
    assert "no-such-topic" in done.stderr and "panicked" not in done.stderr


def test_a_broker_that_is_away_at_the_start_costs_no_answer_and_no_pair(serve, tmp_path):
    broker = Broker(tmp_path / "broker").start()
    try:
        topic = broker.topic("pairs")
        broker.stop()
        one = serve(broker, topic)
        answers = one.ask_all([("POST", f"/score/{i}", b"{}", {}) for i in range(50)])
        assert {answer.status for answer in answers} == {200}
        wait_until(lambda: one.metrics().made == 50, "50 pairs to be made")
        scrape = one.metrics()
        assert (scrape.waiting, scrape.delivered, scrape.dropped) == (50, 0, 0)
        wait_until(lambda: one.metrics().sum("shadowpair_sink_up") == 0, "the sink to be seen as down")

        broker.start()
        answers = one.ask_all([("POST", f"/score/{i}", b"{}", {}) for i in range(50)])
        assert {answer.status for answer in answers} == {200}
        scrape = one.settled(100)
        assert (scrape.delivered, scrape.dropped, scrape.sum("shadowpair_sink_up")) == (100, 0, 1)
        assert_each_once(broker.read(topic), 100)
        # It goes before the broker does: its drain has nothing left to deliver.
        one.stop()
    finally:
        broker.stop()


@pytest.mark.parametrize("fault", ["hangs", "is killed"])
def test_a_broker_that_fails_under_traffic_costs_no_answer_and_no_pair(serve, tmp_path, fault):
    broker = Broker(tmp_path / "broker").start()
    try:
        topic = broker.topic("pairs")
        one = serve(broker, topic)

        def ask(count):
            answers = one.ask_all([("POST", f"/score/{i}", b"{}", {}) for i in range(count)])
            assert {answer.status for answer in answers} == {200}

        ask(40)
        one.settled(40)
        broker.signal(signal.SIGSTOP) if fault == "hangs" else broker.kill()
        ask(40)
        wait_until(lambda: one.metrics().made == 80, "80 pairs to be made")
        one.metrics().assert_sum_holds()
        broker.signal(signal.SIGCONT) if fault == "hangs" else broker.start()
        ask(40)
        scrape = one.settled(120)
        assert (scrape.delivered, scrape.dropped) == (120, 0)
        assert_each_once(broker.read(topic), 120)
        one.stop()
    finally:
        broker.kill()


def assert_each_once(messages, count):
    pairs = [json.loads(message.value()) for message in messages]
    assert sorted(pair["seq"] for pair in pairs) == list(range(1, count + 1))
    assert len({pair["id"] for pair in pairs}) == count
