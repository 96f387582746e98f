"""A model server whose answers a test decides, and which remembers what it saw and what it answered."""

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Reply:
    """What a stub answers. Without a content type it sends none."""

    body: bytes = b""
    status: int = 200
    content_type: str | None = "application/json"
    headers: dict = field(default_factory=dict)


@dataclass
class Call:
    """One request as the stub saw it, and its answer."""

    method: str
    path: str
    headers: dict
    body: bytes
    reply: Reply

    @property
    def request_id(self):
        return self.headers["x-request-id"]

    @property
    def role(self):
        return self.headers.get("x-shadowpair-role", "prod")


class StubModel:
    """`answer(method, path, headers, body)` gives a Reply; it must depend on nothing else, so that what a test works
    out beforehand is what is answered. `tls` is the context of one that speaks HTTPS."""

    def __init__(self, answer, host="127.0.0.1", port=0, tls=None):
        self.answer = answer
        self.calls = []
        self.server = _Server((host, port), _Handler)
        self.server.model = self
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def by_request_id(self):
        """Its calls by request id; a request that came twice is a fault."""
        calls = {call.request_id: call for call in self.calls}
        assert len(calls) == len(self.calls), "a request reached the model twice"
        return calls

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # One write an answer.
    wbufsize = -1

    def handle_one(self):
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.read_body(headers)
        reply = self.server.model.answer(self.command, self.path, headers, body)
        self.server.model.calls.append(Call(self.command, self.path, headers, body, reply))
        self.send_response(reply.status)
        if reply.content_type:
            self.send_header("content-type", reply.content_type)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.status != 204:
            self.send_header("content-length", str(len(reply.body)))
        self.end_headers()
        if self.command != "HEAD" and reply.status != 204:
            self.wfile.write(reply.body)
        self.wfile.flush()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = handle_one

    def read_body(self, headers):
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(headers.get("content-length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def log_message(self, *_):
        """Quiet: the calls are the log."""
