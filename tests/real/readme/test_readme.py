"""README.md's walk with one's own model server, as it is written there; only the ports are others."""

import json
import re
import shlex
from pathlib import Path

import duckdb
import pytest

from harness.process import Process, fetch, free_port, wait_until
from harness.program import BINARY, shadowpair
from harness.schema import assert_valid, read_yaml
from harness.stub import Reply

README = (Path(__file__).parents[3] / "README.md").read_text()
WALK = README.split("\n## With your own model\n")[1].split("\n## ")[0]


def block(language):
    [found] = re.findall(rf"^```{language}\n(.*?)^```", WALK, re.MULTILINE | re.DOTALL)
    return found


def command(start):
    """The one command of the walk that begins so, as its arguments."""
    [found] = re.findall(rf"^{re.escape(start)}(?:[^'\"\n]|'[^']*'|\"[^\"]*\")*", block("sh"), re.MULTILINE)
    return shlex.split(found.replace("\\\n", " "), comments=True)


def score(side):
    def answer(_method, _path, _headers, body):
        number = json.loads(body)["inputs"][0]["data"][0]
        outputs = [{"name": "y", "shape": [1], "datatype": "FP64", "data": [number / 100 + side]}]
        return Reply(json.dumps({"model_name": "fraud", "outputs": outputs}).encode())

    return answer


@pytest.fixture
def ports(stub):
    """The walk's ports, and those that stand for them."""
    return {"8080": free_port(), "9901": free_port(), "9001": stub(score(0)).port, "9002": stub(score(0.5)).port}


def test_the_walk_works_as_written(ports, tmp_path):
    def moved(text):
        return re.sub(rf"\b({'|'.join(ports)})\b", lambda found: str(ports[found[0]]), text)

    routing = moved(block("yaml"))
    (tmp_path / "shadowpair.yaml").write_text(routing)
    assert_valid("routing", read_yaml(routing))
    checked = shadowpair(*command("shadowpair check")[1:], cwd=tmp_path)
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout

    argv = [BINARY, *(word for word in command("shadowpair serve")[1:] if word != "&")]
    process = Process(argv, tmp_path / "proxy.log", cwd=tmp_path)
    try:
        wait_until(lambda: answered(lambda: fetch(ports["9901"], "/readyz")), "the proxy to be ready")
        curl = Process([moved(word) for word in command("curl")], tmp_path / "answer.json")
        assert curl.child.wait(60) == 0, curl.tail()
        assert json.loads((tmp_path / "answer.json").read_text())["outputs"][0]["data"] == [0.125]
        wait_until(lambda: " 1" in delivered(fetch(ports["9901"], "/metrics")), "the pair to be delivered")
    finally:
        assert process.stop() == 0, process.tail()

    compared = shadowpair(*command("shadowpair compare")[1:], cwd=tmp_path)
    assert compared.returncode == 0, compared.stderr
    assert "fraud-v2" in compared.stdout
    sql = command("duckdb -c")[2].replace("./pairs", str(tmp_path / "pairs"))
    found = duckdb.sql(sql)
    assert found.columns == ["result", "pairs", "prod_us", "candidate_us"]
    [(result, pairs, prod_us, candidate_us)] = found.fetchall()
    assert (result, pairs) == ("differs", 1) and prod_us > 0 and candidate_us > 0


def answered(ask):
    try:
        return ask() is not None
    except OSError:
        return False


def delivered(text):
    return next((line for line in text.splitlines() if line.startswith("shadowpair_pairs_delivered_total")), "")
