"""A model server to try shadowpair with: the Open Inference Protocol over HTTP, in nothing but the standard library.

It stands for yours. It scores rows of three numbers; MODEL_VERSION 2 weighs the last a little differently, so that there
is something to find.
"""

import json
import math
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VERSION = os.environ.get("MODEL_VERSION", "1")
WEIGHTS = {"1": (0.5, -0.25, 0.125), "2": (0.5, -0.25, 0.15)}[VERSION]


def score(row):
    return 1 / (1 + math.exp(-sum(weight * x for weight, x in zip(WEIGHTS, row, strict=True))))


def infer(asked):
    tensor = asked["inputs"][0]
    rows, columns = tensor["shape"]
    flat = tensor["data"]
    scores = [score(flat[row * columns:(row + 1) * columns]) for row in range(rows)]
    output = {"name": "score", "shape": [rows], "datatype": "FP64", "data": scores}
    return {"model_name": "fraud", "model_version": VERSION, "id": asked.get("id"), "outputs": [output]}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200, {"ready": True})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            self.answer(200, infer(json.loads(body)))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
            self.answer(400, {"error": repr(error)})

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    # As process 1 of a container it would not be ended by SIGTERM without this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ThreadingHTTPServer(("", int(os.environ.get("PORT", "8080"))), Handler).serve_forever()
