"""Fixtures: what a test asks for is started for it and ended after it, whatever became of the test."""

import itertools
import signal

import pytest

from harness.broker import Broker
from harness.program import shadowpair as run_shadowpair
from harness.proxy import Proxy
from harness.stub import StubModel


def pytest_configure():
    # A SIGTERM ends the run as Ctrl-C does: with every fixture torn down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture
def stub():
    """stub(answer) starts a model server of the test's own."""
    started = []

    def start(answer, **more):
        started.append(StubModel(answer, **more))
        return started[-1]

    yield start
    for model in started:
        model.close()


@pytest.fixture
def proxy(tmp_path):
    """proxy(routes, sink, NAME=value…) starts `shadowpair serve`; its end is part of the test: the sums must hold and the
    drain be clean."""
    started = []

    def start(routes, sink="file", wrap=(), **environment):
        folder = tmp_path / f"proxy-{len(started)}"
        folder.mkdir()
        started.append(Proxy(folder, routes, sink, wrap, **environment))
        return started[-1].start()

    yield start
    try:
        for one in started:
            one.stop()
    finally:
        for one in started:
            if one.process is not None:
                one.process.kill()
                # pytest shows it where the test failed.
                print(f"--- {one.process.log}\n{one.process.tail()}")


@pytest.fixture(scope="session")
def shadowpair():
    """shadowpair(argument…) runs a subcommand to its end."""
    return run_shadowpair


@pytest.fixture(scope="session")
def broker(tmp_path_factory):
    """One broker for all suites; each test takes a topic of its own."""
    broker = Broker(tmp_path_factory.mktemp("session") / "broker")
    try:
        yield broker.start()
    finally:
        broker.stop()


_topics = itertools.count(1)


@pytest.fixture
def topic(broker):
    name = broker.topic(f"pairs-{next(_topics)}")
    yield name
    # Whatever a test left there is a valid pair.
    broker.read(name)


_faults = []


@pytest.fixture
def table():
    """table(fault, sent, delivered, arrived) adds a line to the table that stands under the run."""

    def line(fault, sent, delivered, arrived):
        row = fault, sent, int(delivered), arrived.found, arrived.duplicates, arrived.all_gaps
        _faults.append("| " + " | ".join(map(str, row)) + " |")

    return line


def pytest_terminal_summary(terminalreporter):
    if _faults:
        head = ["| fault | answered | counted as delivered | found | twice | gaps |", "|---|---:|---:|---:|---:|---:|"]
        terminalreporter.section("faults")
        terminalreporter.write_line("\n".join(head + _faults))
