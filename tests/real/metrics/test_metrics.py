"""The scrape before Prometheus' own checker, and the sum that holds in every one of them."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.process import free_port
from harness.stub import Reply

HERE = Path(__file__).parent


@pytest.fixture
def one(proxy, stub):
    def answer(_method, path, _headers, body):
        return Reply(b'{"y": 1}') if "bad" not in path else Reply(b"no", 599)

    ports = {"PROD_PORT": stub(answer).port, "CANDIDATE_PORT": stub(answer).port, "NOBODY_PORT": free_port()}
    return proxy(HERE / "routes.yaml", **ports)


def assert_clean(text):
    done = subprocess.run([HERE / "promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, ""), text


def test_promtool_finds_nothing_to_say(one):
    assert_clean(one.metrics().text)
    for path in ("/a", "/a/bad", "/b", "/nowhere"):
        one.ask_all([("POST", path, b'{"x": 1}', {})] * 20)
    assert_clean(one.metrics().text)


def test_counters_stand_at_zero_before_their_first_event(one):
    before = {(name, tuple(sorted(labels.items()))) for name, labels, _ in one.metrics().samples}
    one.ask_all([("POST", "/a", b"{}", {})] * 20)
    kinds = ("shadowpair_pairs_total", "shadowpair_shadow_skipped_total", "shadowpair_pairs_dropped_total")
    for name, labels, _ in one.metrics().samples:
        if name in kinds:
            assert (name, tuple(sorted(labels.items()))) in before


def test_the_sum_holds_in_every_scrape_under_traffic(one):
    with ThreadPoolExecutor(1) as pool:
        traffic = pool.submit(one.ask_all, [("POST", "/a", b'{"x": 1}', {})] * 2000)
        scrapes = 0
        while not traffic.done() or scrapes == 0:
            one.metrics().assert_sum_holds()
            scrapes += 1
        assert {answer.status for answer in traffic.result()} == {200}
    assert scrapes > 10
