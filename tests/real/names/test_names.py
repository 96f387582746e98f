"""An endpoint's name that stands for another address after a redeploy: the proxy follows, kept connections included."""

import subprocess
from pathlib import Path

import pytest

from harness.process import wait_until
from harness.stub import Reply, StubModel

ROUTES = Path(__file__).parent / "routes.yaml"
# A view of the file system of its own, in which the system's resolver reads the test's file.
OWN_NAMES = ["unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"']
# The proxy resolves every 5 s.
PATIENCE = 20


@pytest.fixture
def names(tmp_path):
    """names(address, …) says what model.test stands for from now on."""
    file = tmp_path / "hosts"

    def stands_for(*addresses):
        # Written in place: the mount holds the file, not its name.
        file.write_text("127.0.0.1 localhost\n" + "".join(f"{address} model.test\n" for address in addresses))

    stands_for("127.0.0.1")
    tried = subprocess.run([*OWN_NAMES, file, "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.fail(f"needs the right to a mount name space of its own: {tried.stderr}")
    stands_for.file = file
    return stands_for


def test_a_name_that_moves_is_followed_and_the_last_good_one_kept(names, proxy):
    replies = {"one": Reply(b"one"), "two": Reply(b"two")}
    one = StubModel(lambda *_: replies["one"])
    two = StubModel(lambda *_: replies["two"], host="127.0.0.2", port=one.port)
    try:
        running = proxy(ROUTES, wrap=[*OWN_NAMES, names.file], PROD_PORT=one.port)

        def ask():
            return running.ask("GET", "/").body

        assert ask() == b"one"

        # The old one still accepts, but has nothing good to say.
        replies["one"] = Reply(b"gone", status=500)
        names("127.0.0.2")
        wait_until(lambda: ask() == b"two", "the new address to be used", PATIENCE)
        assert [ask() for _ in range(20)] == [b"two"] * 20

        replies["one"] = Reply(b"one")
        names("127.0.0.1", "127.0.0.2")
        wait_until(lambda: ask() == b"one", "the second address to be used too", PATIENCE)
        assert {ask() for _ in range(60)} == {b"one", b"two"}

        names()
        wait_until(lambda: "a name does not resolve" in running.process.tail(400), "the loss to be logged", PATIENCE)
        assert {ask() for _ in range(60)} == {b"one", b"two"}
    finally:
        one.close()
        two.close()
