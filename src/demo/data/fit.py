"""Fits the demo's two models and writes the data files beside this script.

    python -m venv venv && venv/bin/pip install scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1
    venv/bin/python src/demo/data/fit.py

The data are the handwritten digits that ship with scikit-learn (8 x 8 pixels, each 0 to 16), a copy of the test
set of E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", 1998, UCI Machine Learning Repository,
https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits. Both models are fitted on a third of the rows; the demo sends only rows from
the other two thirds, which neither model has seen.

Coefficients are rounded to six decimals *before* anything is predicted, so that the files are small and the
expected predictions are those of just the models in the files. The seeds are fixed: with the versions above
the script writes the same bytes again.
"""

import json
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

HERE = Path(__file__).parent
TEST_ROWS = 1200
PROBABILITIES_EVERY = 12  # the expected probabilities of all rows would outweigh everything else here
PIXELS = "0123456789abcdefg"  # one character a pixel: 0 is paper, g (16) is ink


def layers(weights, biases):
    """One entry a layer; a layer's `weights` hold one list for each of its outputs."""
    return [{"weights": w.T.tolist(), "bias": b.tolist()} for w, b in zip(weights, biases)]


def write(name, document):
    (HERE / name).write_text(json.dumps(document, separators=(",", ":")) + "\n")


def expected(model, rows):
    probabilities = model.predict_proba(rows[::PROBABILITIES_EVERY])
    return {
        "classes": "".join(map(str, model.predict(rows))),
        "probabilities_every": PROBABILITIES_EVERY,
        "probabilities": [[float(f"{p:.11g}") for p in row] for row in probabilities],
    }


def main():
    pixels, digits = load_digits(return_X_y=True)
    train, rows, train_digits, row_digits = train_test_split(
        pixels, digits, test_size=TEST_ROWS, random_state=1, stratify=digits
    )

    linear = LogisticRegression(max_iter=5000).fit(train, train_digits)
    linear.coef_, linear.intercept_ = linear.coef_.round(6), linear.intercept_.round(6)

    network = MLPClassifier((32,), alpha=1.0, max_iter=2000, random_state=1).fit(train, train_digits)
    network.coefs_ = [c.round(6) for c in network.coefs_]
    network.intercepts_ = [b.round(6) for b in network.intercepts_]

    write("linear.json", {"layers": layers([linear.coef_.T], [linear.intercept_])})
    write("network.json", {"layers": layers(network.coefs_, network.intercepts_)})
    write("expected.json", {"linear": expected(linear, rows), "network": expected(network, rows)})
    lines = [f"{d},{''.join(PIXELS[int(p)] for p in row)}\n" for d, row in zip(row_digits, rows)]
    (HERE / "rows.csv").write_text("digit,pixels\n" + "".join(lines))

    a, b = linear.predict(rows), network.predict(rows)
    print(f"right: linear {np.mean(a == row_digits):.4f}, network {np.mean(b == row_digits):.4f}")
    print(f"same digit: {np.mean(a == b):.4f} of {len(rows)}")
    split = a != b
    right = (a == row_digits)[split].sum(), (b == row_digits)[split].sum()
    print(f"of the other {split.sum()}: linear right {right[0]}, network right {right[1]}")
    gap = np.abs(linear.predict_proba(rows) - network.predict_proba(rows)).max(axis=1)
    print("largest probability gap, quantiles .5 .8 .9:", np.quantile(gap, [0.5, 0.8, 0.9]).round(3))
    print("ink quartiles:", np.quantile(rows.sum(axis=1), [0.25, 0.5, 0.75]))


if __name__ == "__main__":
    main()
