"""Fits two models on the breast cancer data that ships with scikit-learn, lays them out as MLServer wants them, and writes
down what each of them says about every row: the truth that the proxy's pairs are held against.

    fit.py FOLDER HTTP_PORT GRPC_PORT
"""

import json
import sys
from pathlib import Path

import joblib
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

MODELS = {
    "linear": make_pipeline(StandardScaler(), LogisticRegression(random_state=0)),
    "boosted": HistGradientBoostingClassifier(random_state=0),
}


def main(folder, http_port, grpc_port):
    rows, labels = load_breast_cancer(return_X_y=True)
    seen, _, seen_labels, _ = train_test_split(rows, labels, test_size=0.5, random_state=0, stratify=labels)
    truth = {"rows": rows.tolist()}
    for name, model in MODELS.items():
        model.fit(seen, seen_labels)
        # Row by row, as the requests come: a batch is summed in another order and differs in the last bits.
        each = [row.reshape(1, -1) for row in rows]
        truth[name] = {
            "label": [int(model.predict(row)[0]) for row in each],
            "proba": [model.predict_proba(row)[0].tolist() for row in each],
        }
        write_model(folder / "models" / name, name, model)
    write_json(folder / "truth.json", truth)
    write_settings(folder, http_port, grpc_port)


def write_model(folder, name, model):
    folder.mkdir(parents=True)
    joblib.dump(model, folder / "model.joblib")
    parameters = {"uri": "./model.joblib", "version": "v1"}
    settings = {"name": name, "implementation": "mlserver_sklearn.SKLearnModel", "parameters": parameters}
    write_json(folder / "model-settings.json", settings)


def write_settings(folder, http_port, grpc_port):
    quiet = {"handlers": ["stderr"], "level": "WARNING", "propagate": False}
    logging = {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"stderr": {"class": "logging.StreamHandler"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {"mlserver": quiet, "uvicorn": quiet},
    }
    write_json(folder / "logging.json", logging)
    settings = {
        "host": "127.0.0.1",
        "http_port": int(http_port),
        "grpc_port": int(grpc_port),
        "metrics_endpoint": None,
        # One process: its default, a worker beside it, does not start on current Pythons.
        "parallel_workers": 0,
        "debug": False,
        "logging_settings": str(folder / "logging.json"),
    }
    write_json(folder / "models" / "settings.json", settings)


def write_json(path, content):
    path.write_text(json.dumps(content))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
