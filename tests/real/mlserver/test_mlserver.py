"""Two real models on a real model server, asked through the proxy by Triton's client: what `compare` says must be what the
two models' own predictions say."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from harness.process import Process, fetch, free_port, wait_until

HERE = Path(__file__).parent
PYTHON = Path(os.environ["SHADOWPAIR_MLSERVER_PYTHON"])
TOLERANCE = 0.05


class Server:
    """One MLServer with both models."""

    def __init__(self, folder):
        self.port = free_port()
        fit = [PYTHON, HERE / "fit.py", folder, str(self.port), str(free_port())]
        done = subprocess.run(fit, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        self.truth = json.loads((folder / "truth.json").read_text())
        # Its own folder first in PATH, and the one to write its caches in.
        environment = {**os.environ, "PATH": f"{PYTHON.parent}:{os.environ['PATH']}", "HOME": str(folder)}
        argv = [PYTHON.parent / "mlserver", "start", folder / "models"]
        self.process = Process(argv, folder / "mlserver.log", env=environment, cwd=folder)

    def ready(self):
        assert self.process.alive(), self.process.tail()
        try:
            for model in ("linear", "boosted"):
                fetch(self.port, f"/v2/models/{model}/ready")
            return True
        except OSError:
            return False


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("mlserver"))
    try:
        wait_until(server.ready, "MLServer to have both models")
        yield server
    finally:
        server.process.kill()


def ask(client, model, rows, number, **options):
    """One inference of these rows: its JSON, as the client read it."""
    tensor = triton.InferInput("input-0", [len(rows), len(rows[0])], "FP64")
    # MLServer speaks JSON only; this client's default is binary.
    tensor.set_data_from_numpy(np.array(rows), binary_data=False)
    outputs = [triton.InferRequestedOutput(name, binary_data=False) for name in ("predict", "predict_proba")]
    return client.infer(model, [tensor], request_id=f"row-{number}", outputs=outputs, **options).get_response()


def ask_all(port, model, rows):
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        return [ask(client, model, [row], number) for number, row in enumerate(rows)]


def agreed(truth):
    """For each row: whether the labels agree, and whether the probabilities do."""
    sides = truth["linear"], truth["boosted"]
    labels = [a == b for a, b in zip(*(side["label"] for side in sides))]
    probabilities = [abs(a[1] - b[1]) <= TOLERANCE for a, b in zip(*(side["proba"] for side in sides))]
    return labels, probabilities


@pytest.mark.parametrize("sink", ["file", "kafka"])
def test_compare_prints_the_agreement_of_the_models_own_predictions(sink, server, proxy, shadowpair, request, tmp_path):
    topic = request.getfixturevalue("topic") if sink == "kafka" else None
    broker = request.getfixturevalue("broker") if sink == "kafka" else None
    ports = {"BROKER_PORT": broker.port, "TOPIC": topic} if broker else {}
    one = proxy(HERE / "routes.yaml", sink, MLSERVER_PORT=server.port, **ports)
    rows = server.truth["rows"]
    through = ask_all(one.port, "linear", rows)
    one.settled(len(rows))

    # The client got prod's answers.
    direct = server.truth["linear"]
    assert [answer["outputs"][0]["data"] for answer in through] == [[label] for label in direct["label"]]
    assert [answer["outputs"][1]["data"] for answer in through] == direct["proba"]
    assert [answer["id"] for answer in through] == [f"row-{number}" for number in range(len(rows))]

    source = broker.url(topic) if broker else one.pairs_dir
    done = shadowpair("compare", source, "--json", tmp_path / "report.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    [group] = report["groups"]
    labels, probabilities = agreed(server.truth)
    assert 0 < sum(labels) < len(rows) and 0 < sum(probabilities) < len(rows), "the models must disagree somewhere"
    values = {value["name"]: value["agreement"] for value in group["values"]}
    assert (values["label"]["count"], values["label"]["n"]) == (sum(labels), len(rows))
    assert (values["probability"]["count"], values["probability"]["n"]) == (sum(probabilities), len(rows))
    both = sum(a and b for a, b in zip(labels, probabilities))
    assert (group["agreement"]["count"], group["agreement"]["n"]) == (both, len(rows))
    assert (group["route"], group["prod"], group["candidate"]) == ("tumour", "linear", "boosted")
    # What a person reads says the same.
    assert f"{100 * both / len(rows):.1f}" in done.stdout, done.stdout


def test_each_pair_holds_both_models_predictions(server, proxy):
    one = proxy(HERE / "routes.yaml", MLSERVER_PORT=server.port)
    rows = server.truth["rows"][:100]
    ask_all(one.port, "linear", rows)
    one.settled(len(rows))
    labels, probabilities = agreed(server.truth)
    for pair in one.pairs():
        number = int(pair["keys"]["customer"].removeprefix("row-"))
        assert json.loads(pair["request"]["body"]["data"])["inputs"][0]["data"] == rows[number]
        for side, model in (("prod", "linear"), ("candidate", "boosted")):
            answer = json.loads(pair[side]["body"]["data"])
            assert answer["model_name"] == pair[side]["model"] == model
            assert answer["model_version"] == pair[side]["version"] == "v1"
            assert answer["outputs"][0]["data"] == [server.truth[model]["label"][number]]
            assert answer["outputs"][1]["data"] == server.truth[model]["proba"][number]
        label, probability = pair["comparison"]["values"]
        assert (label["result"] == "equal") == labels[number]
        assert (probability["result"] != "differs") == probabilities[number]
        assert probability["prod"] == [server.truth["linear"]["proba"][number][1]]
        assert probability["candidate"] == [server.truth["boosted"]["proba"][number][1]]


def test_compressed_requests_and_answers_pass_and_are_read(server, proxy):
    one = proxy(HERE / "routes.yaml", MLSERVER_PORT=server.port)
    rows = server.truth["rows"]
    packed = {"request_compression_algorithm": "gzip", "response_compression_algorithm": "gzip"}
    with triton.InferenceServerClient(f"127.0.0.1:{one.port}") as client:
        through = ask(client, "linear", rows, 0, **packed)
    assert through["outputs"][0]["data"] == server.truth["linear"]["label"]
    one.settled(1)
    [pair] = one.pairs()
    for side, model in (("prod", "linear"), ("candidate", "boosted")):
        answer = json.loads(pair[side]["body"]["data"])
        assert answer["outputs"][0]["data"] == server.truth[model]["label"]
        assert pair[side]["bytes"] < len(pair[side]["body"]["data"]), "on the wire it was packed"
    assert json.loads(pair["request"]["body"]["data"])["inputs"][0]["shape"] == [len(rows), len(rows[0])]


def test_a_refused_request_is_refused_alike_and_recorded(server, proxy):
    one = proxy(HERE / "routes.yaml", MLSERVER_PORT=server.port)
    said = []
    for port in (server.port, one.port):
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            with pytest.raises(InferenceServerException) as refused:
                ask(client, "linear", [[1.0, 2.0]], 0)
            said.append((refused.value.status(), refused.value.message()))
    assert said[0] == said[1]
    one.settled(1)
    [pair] = one.pairs()
    assert (pair["result"], pair["prod"]["status"], pair["candidate"]["status"]) == ("both_failed", 500, 500)


def test_what_is_not_a_prediction_passes_unshadowed(server, proxy):
    one = proxy(HERE / "routes.yaml", MLSERVER_PORT=server.port)
    with triton.InferenceServerClient(f"127.0.0.1:{one.port}") as client:
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("boosted")
        assert client.get_model_metadata("linear")["name"] == "linear"
    assert one.metrics().made == 0
