#!/usr/bin/env python3
"""The workload by which `deploy/build` learns what of the program runs: train.py PROGRAM

First the demo: HTTP/1.1 and HTTP/2, a control, keys, slices, vectors, files. Then a model server and 64 clients on
loopback, over HTTP/1.1: JSON of 1 and of 16 KB, a plain route, a shadowed one with pairs to files, and the same to Kafka,
for which librdkafka brings brokers of its own (`test.mock.num.brokers`). What it asks is answered, or it fails.
Nothing but Python's own library is needed.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

CLIENTS, EACH = 64, 200

ROUTES = """
version: 1
server: {{listen: "127.0.0.1:{port}", admin: "127.0.0.1:{admin}"}}
models:
  prod: {{endpoints: ["http://127.0.0.1:{model}"]}}
  next: {{endpoints: ["http://127.0.0.1:{model}"]}}
routes:
  - {{name: plain, match: {{path_prefix: /plain}}, prod: prod}}
  - name: shadowed
    match: {{path_prefix: /}}
    prod: prod
    shadow: [{{model: next, percent: 100, timeout: 10s}}]
    compare: {{values: [{{name: y, at: /y, kind: number}}]}}
pairs: {{{sink}}}
"""


def body(size):
    """JSON of about this size, mostly numbers, as models take it."""
    return json.dumps({"id": "r-1", "model": "iris", "data": [n * 7919 % 10_000 / 100 for n in range(size // 7)]}).encode()


ANSWER = json.dumps({"model": "iris", "y": 0.75, "data": [n / 8 for n in range(25)]}).encode()
KINDS = [("/v1/models/iris:predict", body(955))] * 7 + [("/v2/models/iris/infer", body(16 << 10))]
KINDS += [("/plain" + path, sent) for path, sent in KINDS]


async def message(reader):
    """The first line of a message with `Content-Length`, once all of it is there; none at the end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            await reader.readexactly(int(line.partition(b":")[2]))
    return head.split(b"\r\n", 1)[0]


async def model(reader, writer):
    """A model server's side of one connection."""
    while await message(reader):
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(ANSWER)}\r\n\r\n"
        writer.write(head.encode() + ANSWER)
    writer.close()


async def client(port, first):
    """One client: one connection, one request after another."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for nth in range(first, first + EACH):
        path, sent = KINDS[nth % len(KINDS)]
        head = f"POST {path} HTTP/1.1\r\nhost: models\r\nuser-agent: train\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(sent)}\r\n\r\n".encode() + sent)
        status = await message(reader)
        assert status == b"HTTP/1.1 200 OK", status
    writer.close()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


async def clients(port, proxy):
    """All clients, once the proxy listens."""
    while True:
        assert proxy.poll() is None, "the proxy has ended"
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.1)
        else:
            writer.close()
            break
    await asyncio.gather(*(client(port, nth) for nth in range(CLIENTS)))


async def made(admin):
    """How many pairs there are. Copies that are shed, on a busy machine, are none and train nobody."""
    reader, writer = await asyncio.open_connection("127.0.0.1", admin)
    writer.write(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    lines = (await reader.read()).decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("shadowpair_pairs_total{"))


async def serve(program, folder, sink):
    """One life of the proxy, with pairs to this sink."""
    server = await asyncio.start_server(model, "127.0.0.1", 0, limit=1 << 20)
    port, admin = free_port(), free_port()
    file = folder / "shadowpair.yaml"
    file.write_text(ROUTES.format(port=port, admin=admin, model=server.sockets[0].getsockname()[1], sink=sink))
    proxy = subprocess.Popen([program, "serve", "-c", file, "--log", "warn"])
    try:
        await asyncio.wait_for(clients(port, proxy), 600)
        pairs, asked = await made(admin), CLIENTS * EACH
        print(f"{asked} requests, half of them shadowed: {pairs:.0f} pairs", file=sys.stderr)
        assert pairs, "all copies were shed"
    finally:
        proxy.terminate()
        # It drains, and writes its counts.
        status = await asyncio.to_thread(proxy.wait, 120)
    server.close()
    assert status == 0, f"the proxy ended with {status}"


def main():
    program = Path(sys.argv[1]).resolve()
    # Lanes have the lowest priority: among equals they run in time, and no copy is shed.
    os.nice(19)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        subprocess.run([program, "demo", "--dir", folder / "demo"], check=True, stdout=subprocess.DEVNULL)
        asyncio.run(serve(program, folder, f'file: {{dir: "{folder}/pairs"}}'))
        brokers = "brokers: [127.0.0.1:9], topic: pairs, properties: {test.mock.num.brokers: 1}"
        asyncio.run(serve(program, folder, f"kafka: {{{brokers}}}"))


if __name__ == "__main__":
    main()
