"""A disk that fills up under the file sink, and has room again."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from harness.process import wait_until
from harness.stub import Reply

ROUTES = Path(__file__).parent / "routes.yaml"
SIZE = 2 << 20


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system that is nearly full but for SIZE bytes: a mount of its own, or, where mounting is not
    allowed, a shared memory file system that is small anyhow, filled up."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder], capture_output=True).returncode == 0:
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)
        return
    free = shutil.disk_usage("/dev/shm").free
    if free > 1 << 30:
        pytest.fail("needs the right to mount a tmpfs, or a /dev/shm of less than 1 GiB")
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        fill(folder / "others", free - SIZE)
        yield folder
    finally:
        shutil.rmtree(folder)


def fill(file, size):
    with open(file, "wb") as out:
        os.posix_fallocate(out.fileno(), 0, size)


def test_a_full_disk_costs_pairs_but_no_answer_and_heals(small_disk, proxy, stub):
    def answer(_method, _path, _headers, body):
        return Reply(body)

    pairs_dir = small_disk / "pairs"
    pairs_dir.mkdir()
    ballast = small_disk / "ballast"
    fill(ballast, SIZE // 2)
    one = proxy(ROUTES, PAIRS_DIR=pairs_dir, PROD_PORT=stub(answer).port, CANDIDATE_PORT=stub(answer).port)
    body = json.dumps({"pad": "x" * 8000}).encode()

    def ask(count):
        answers = one.ask_all([("POST", "/", body, {})] * count)
        assert {(answer.status, answer.body) for answer in answers} == {(200, body)}

    # Full: prod's answers stay as they are. The pairs that found no room wait for a while, then they are given up and
    # counted, and nothing else is lost.
    ask(200)
    wait_until(lambda: one.metrics().sum("shadowpair_sink_up") == 0, "the sink to be seen as down")
    ask(20)
    scrape = one.settled(220)
    assert scrape.delivered > 0 and scrape.dropped > 20
    assert scrape.by("shadowpair_pairs_dropped_total", "reason") == {"disk": scrape.dropped}
    assert scrape.by("shadowpair_sink_errors_total", "kind").keys() == {"disk_full"}
    assert one.ready()

    # Room again: pairs arrive again, and the folder holds just those that count as delivered, each of them whole.
    ballast.unlink()
    before = scrape
    ask(20)
    scrape = one.settled(240)
    assert (scrape.delivered - before.delivered, scrape.dropped - before.dropped) == (20, 0)
    assert scrape.sum("shadowpair_sink_up") == 1
    pairs = one.pairs()
    assert len(pairs) == scrape.delivered
    assert len({pair["id"] for pair in pairs}) == len(pairs)
    one.stop()
