"""A real Apache Kafka broker, by the script beside its suite, and a reader that is not ours."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from .process import free_port, wait_until
from .schema import assert_valid

SCRIPT = Path(__file__).parent.parent / "kafka" / "broker"
PARTITIONS = 3


class Broker:
    """`listeners` are beside the plaintext one that tests and tools use: a name and its security protocol, each at a port
    of its own in `ports`. `properties` are more lines of its configuration, read anew at each start."""

    def __init__(self, folder, listeners=(), properties=()):
        self.folder = folder
        self.listeners, self.properties = dict(listeners), list(properties)
        self._draw_ports()

    def _draw_ports(self):
        self.port, self.controller = free_port(), free_port()
        self.ports = {name: free_port() for name in self.listeners}

    def start(self, on_these_ports=False):
        """The first start has a second try: a port that was free when it was drawn may be taken by now."""
        first = not self.folder.exists() and not on_these_ports
        try:
            return self._start()
        except AssertionError as error:
            if not first:
                raise
            print(f"another try to start a broker: {error}")
        self.stop()
        shutil.rmtree(self.folder)
        self._draw_ports()
        return self._start()

    def _start(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "more.properties").write_text("\n".join([*self._listeners(), *self.properties, ""]))
        self._script("start", self.folder, self.port, self.controller)
        return self

    def _listeners(self):
        if not self.listeners:
            return
        own = [f"{name}://localhost:{self.ports[name]}" for name in self.listeners]
        plain = f"PLAINTEXT://127.0.0.1:{self.port}"
        yield "listeners=" + ",".join([plain, f"CONTROLLER://127.0.0.1:{self.controller}", *own])
        yield "advertised.listeners=" + ",".join([plain, *own])
        security = [f"{name}:{protocol}" for name, protocol in self.listeners.items()]
        yield "listener.security.protocol.map=" + ",".join(["PLAINTEXT:PLAINTEXT", "CONTROLLER:PLAINTEXT", *security])

    def stop(self):
        self._script("stop", self.folder)

    def signal(self, number):
        """SIGSTOP, SIGCONT, SIGKILL: the faults."""
        os.kill(int((self.folder / "pid").read_text()), number)

    def kill(self):
        """Ends it at once, also where it is stopped; nothing where it is gone."""
        if (self.folder / "pid").exists():
            self.signal(signal.SIGKILL)
        self.stop()

    def topic(self, name):
        self._script("topic", self.port, name, PARTITIONS)
        return name

    def tool(self, name, *arguments):
        """What one of Kafka's own tools says, run against this broker."""
        return self._script("tool", self.port, name, *arguments)

    def _script(self, *arguments):
        done = subprocess.run([SCRIPT, *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def url(self, topic):
        return f"kafka://127.0.0.1:{self.port}/{topic}"

    def read(self, topic, partitions=PARTITIONS):
        """Every message of the topic, from its first to the last that stands there now; each holds a valid pair."""
        consumer = Consumer({
            "bootstrap.servers": f"127.0.0.1:{self.port}",
            "group.id": "reader",
            "enable.auto.commit": False,
            "enable.partition.eof": False,
        })
        try:
            ends = {}
            for partition in range(partitions):
                low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)
                assert low == 0
                ends[partition] = high
            consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
            found = []

            def complete():
                for message in consumer.consume(1000, 1):
                    assert message.error() is None, message.error()
                    found.append(message)
                return len(found) >= sum(ends.values())

            wait_until(complete, f"{sum(ends.values())} messages of {topic}")
            for message in found:
                assert_valid("pair", json.loads(message.value()))
            return found
        finally:
            consumer.close()
