"""What `deploy/` ships, before the checkers of those who will read it: Prometheus, Kubernetes, Compose, systemd. And
Compose's model servers and routing file at work, with a real broker."""

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.process import Process, fetch, free_port, wait_until

HERE = Path(__file__).parent
DEPLOY = HERE.parents[2] / "deploy"
PROMTOOL = HERE.parent / "metrics" / "promtool"
CHECKERS = Path(os.environ["SHADOWPAIR_DEPLOY_BIN"])
BINARY = os.environ["SHADOWPAIR_BIN"]


def run(*argv):
    """A checker's output; it must be content."""
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_prometheus_takes_its_configuration():
    assert "SUCCESS" in run(PROMTOOL, "check", "config", DEPLOY / "prometheus" / "prometheus.yaml")


def test_every_alert_fires_when_it_should_and_only_then():
    assert "SUCCESS" in run(PROMTOOL, "test", "rules", DEPLOY / "prometheus" / "alerts.test.yaml")


def test_every_alert_has_both_tests():
    rules = (DEPLOY / "prometheus" / "alerts.yaml").read_text()
    tests = (DEPLOY / "prometheus" / "alerts.test.yaml").read_text()
    alerts = re.findall(r"alert: (\w+)", rules)
    assert len(alerts) == 10
    for alert in alerts:
        [*found] = re.findall(rf'alertname="{alert}".*?exp_samples:\s*(\[\]|\[\{{|-)', tests, re.DOTALL)
        assert "[]" in found and len(set(found)) > 1, f"{alert}: {found}"


MANIFESTS = sorted((DEPLOY / "kubernetes").rglob("*.yaml"))


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_kubernetes_takes_every_manifest(manifest):
    said = run(CHECKERS / "kubernetes-validate", "--strict", manifest)
    # The operator's own kind has no schema there; tests/it/deploy.rs looks at what it selects.
    assert "passed" in said or "kind: PodMonitor" in manifest.read_text(), said


def test_what_the_shipped_binary_is_trained_by_runs():
    assert run(DEPLOY / "train.py", BINARY).count(" pairs") == 2


def test_the_image_is_built_by_the_book():
    run(CHECKERS / "hadolint", DEPLOY / "Dockerfile")


def test_compose_takes_its_file():
    schema = run(HERE / "compose-schema").splitlines()[-1]
    services = run(CHECKERS / "python", HERE / "check_compose.py", schema, DEPLOY / "compose.yaml")
    assert services.split() == ["fraud-v1", "fraud-v2", "kafka", "prometheus", "shadowpair"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")
def test_systemd_takes_its_unit(tmp_path):
    unit = tmp_path / "shadowpair.service"
    text = (DEPLOY / "systemd" / "shadowpair.service").read_text()
    # It must find the program; where it is installed does not matter here.
    unit.write_text(text.replace("/usr/local/bin/shadowpair", BINARY))
    assert run("systemd-analyze", "verify", "--man=no", unit) == ""
    exposure = run("systemd-analyze", "security", "--offline=true", "--no-pager", unit)
    assert float(re.search(r"exposure level.*: ([\d.]+)", exposure).group(1)) < 2, exposure


@pytest.fixture
def composed(broker, topic, tmp_path):
    """Compose's two model servers and its routing file, with addresses of this machine: (traffic port, admin port)."""
    model = [sys.executable, DEPLOY / "compose" / "model.py"]
    started, ports = [], {name: free_port() for name in ("traffic", "admin", "fraud-v1", "fraud-v2")}
    text = (DEPLOY / "compose" / "shadowpair.yaml").read_text()
    addresses = {
        "0.0.0.0:8080": f"127.0.0.1:{ports['traffic']}",
        "0.0.0.0:9901": f"127.0.0.1:{ports['admin']}",
        "fraud-v1:8080": f"127.0.0.1:{ports['fraud-v1']}",
        "fraud-v2:8080": f"127.0.0.1:{ports['fraud-v2']}",
        "kafka:9092": f"127.0.0.1:{broker.port}",
        "shadowpair.pairs": topic,
    }
    for there, here in addresses.items():
        assert text.count(there) == 1, there
        text = text.replace(there, here)
    (tmp_path / "shadowpair.yaml").write_text(text)
    try:
        for version in "12":
            environment = {**os.environ, "MODEL_VERSION": version, "PORT": str(ports[f"fraud-v{version}"])}
            started.append(Process(model, tmp_path / f"model-{version}.log", env=environment))
            wait_until(lambda: answers(ports[f"fraud-v{version}"], "/v2/health/ready"), "a model server")
        serve = [BINARY, "serve", "-c", tmp_path / "shadowpair.yaml"]
        started.append(Process(serve, tmp_path / "proxy.log", cwd=tmp_path))
        wait_until(lambda: answers(ports["admin"], "/readyz"), "the proxy")
        yield ports["traffic"], ports["admin"]
        assert started.pop().stop() == 0, "a clean drain"
    finally:
        for process in started:
            process.kill()


def answers(port, path):
    try:
        return fetch(port, path) is not None
    except OSError:
        return False


def infer(connection, number, row):
    asked = {"id": str(number), "inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP64", "data": row}]}
    connection.request("POST", "/v2/models/fraud/infer", json.dumps(asked), {"content-type": "application/json"})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def test_compose_compares_its_two_models(composed, broker, topic):
    traffic, admin = composed
    connection = http.client.HTTPConnection("127.0.0.1", traffic, timeout=10)
    for number in range(50):
        # The models weigh the last number differently: they agree where it is 0.
        status, answer = infer(connection, number, [1.0, 2.0, 0.0 if number % 2 else 4.0])
        assert (status, answer["model_version"], answer["id"]) == (200, "1", str(number))
    connection.request("POST", "/v2/models/fraud/infer", b"{", {})
    assert connection.getresponse().status == 400, "the model's own answer to bad JSON"

    def counted():
        def total(pattern):
            return sum(map(int, re.findall(pattern + r".*} (\d+)", scrape)))

        scrape = fetch(admin, "/metrics")
        made, shadows = total("shadowpair_pairs_total{"), total('shadowpair_pairs_total{.*role="shadow"')
        # The control's pairs come on top.
        return shadows == 51 and made == total("shadowpair_pairs_delivered_total{")

    wait_until(counted, "all pairs to be delivered")
    pairs = [json.loads(message.value()) for message in broker.read(topic)]
    shadows = {pair["keys"]["transaction"]: pair["result"] for pair in pairs if pair["candidate"]["role"] == "shadow"}
    assert {key for key, result in shadows.items() if result == "differs"} == {str(n) for n in range(0, 50, 2)}
    assert {key for key, result in shadows.items() if result == "equal"} == {str(n) for n in range(1, 50, 2)}
    assert shadows[None] == "both_failed"


def test_every_metric_of_the_alerts_is_exposed(composed):
    traffic, admin = composed
    infer(http.client.HTTPConnection("127.0.0.1", traffic, timeout=10), 1, [1.0, 2.0, 3.0])
    wait_until(lambda: "shadowpair_pairs_total" in fetch(admin, "/metrics"), "a pair")
    exposed = set(re.findall(r"^# TYPE (\w+)", fetch(admin, "/metrics"), re.MULTILINE))
    used = set(re.findall(r"\bshadowpair_\w+", (DEPLOY / "prometheus" / "alerts.yaml").read_text()))
    assert used and used <= exposed, used - exposed
