"""An endpoint's name that stands for another address after a redeploy: the proxy follows, kept connections included.
Once where the system's resolver reads a file, once where it asks a name server."""

import subprocess
import time
from pathlib import Path

import pytest

from harness.process import wait_until
from harness.resolver import TTL, Resolver
from harness.stub import Reply, StubModel

ROUTES = Path(__file__).parent / "routes.yaml"
# A view of the file system of its own, in which the system's resolver reads the test's files.
OWN_NAMES = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
HOSTS_ONLY = 'mount --bind "$0" /etc/hosts && exec "$@"'
# $0 is the folder of both files.
WITH_SERVER = 'mount --bind "$0/hosts" /etc/hosts && mount --bind "$0/resolv.conf" /etc/resolv.conf && exec "$@"'
# The name server's own address: port 53 of the usual ones may be taken.
SERVER = "127.0.53.53"
# The proxy resolves every 5 s, so a new address is in use within its time to live plus that; the rest is the machine's.
PATIENCE = TTL + 5 + 4
# How long the name is gone.
GONE = 5


class Hosts:
    """model.test stands in /etc/hosts."""

    def __init__(self, folder):
        self.file = folder / "hosts"
        self.stands_for("127.0.0.1")
        self.wrap = [*OWN_NAMES, HOSTS_ONLY, self.file]

    def stands_for(self, *addresses):
        # Written in place: the mount holds the file, not its name.
        self.file.write_text("127.0.0.1 localhost\n" + "".join(f"{address} model.test\n" for address in addresses))

    def close(self):
        pass


class Server(Resolver):
    """model.test is known to a name server."""

    def __init__(self, folder):
        super().__init__(SERVER, "model.test")
        (folder / "hosts").write_text("127.0.0.1 localhost\n")
        (folder / "resolv.conf").write_text(f"nameserver {SERVER}\noptions timeout:1 attempts:2\n")
        self.stands_for("127.0.0.1")
        self.wrap = [*OWN_NAMES, WITH_SERVER, folder]


@pytest.fixture(params=[Hosts, Server], ids=["hosts", "server"])
def names(request, tmp_path):
    """names.stands_for(address, …) says what model.test stands for from now on."""
    names = request.param(tmp_path)
    tried = subprocess.run([*names.wrap, "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.fail(f"needs the right to a mount name space of its own: {tried.stderr}")
    yield names
    names.close()


def test_a_name_that_moves_is_followed_and_the_last_good_one_kept(names, proxy):
    replies = {"one": Reply(b"one"), "two": Reply(b"two")}
    one = StubModel(lambda *_: replies["one"])
    two = StubModel(lambda *_: replies["two"], host="127.0.0.2", port=one.port)
    try:
        running = proxy(ROUTES, wrap=names.wrap, PROD_PORT=one.port)

        # All over one kept connection of the client's, and the proxy keeps its own to the model.
        def ask():
            return running.ask("GET", "/").body

        assert ask() == b"one"

        # The old one still accepts, but has nothing good to say.
        replies["one"] = Reply(b"gone", status=500)
        names.stands_for("127.0.0.2")
        wait_until(lambda: ask() == b"two", "the new address to be used", PATIENCE)
        assert [ask() for _ in range(20)] == [b"two"] * 20

        replies["one"] = Reply(b"one")
        names.stands_for("127.0.0.1", "127.0.0.2")
        wait_until(lambda: ask() == b"one", "the second address to be used too", PATIENCE)
        assert {ask() for _ in range(60)} == {b"one", b"two"}

        names.stands_for()
        gone = time.monotonic()
        wait_until(lambda: "a name does not resolve" in running.process.tail(400), "the loss to be logged", PATIENCE)
        while time.monotonic() < gone + GONE:
            assert {ask() for _ in range(60)} == {b"one", b"two"}

        # And it is followed again when it is back.
        names.stands_for("127.0.0.2")
        wait_until(lambda: {ask() for _ in range(20)} == {b"two"}, "the name to be followed again", PATIENCE)
    finally:
        one.close()
        two.close()
