"""A real Apache Kafka broker, by the script beside its suite, and a reader that is not ours."""

import json
import os
import signal
import subprocess
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from .process import free_port, wait_until
from .schema import assert_valid

SCRIPT = Path(__file__).parent.parent / "kafka" / "broker"
PARTITIONS = 3


class Broker:
    def __init__(self, folder):
        self.folder = folder
        self.port, self.controller = free_port(), free_port()

    def start(self):
        self._script("start", self.folder, self.port, self.controller)
        return self

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

    def _script(self, *arguments):
        done = subprocess.run([SCRIPT, *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def url(self, topic):
        return f"kafka://127.0.0.1:{self.port}/{topic}"

    def read(self, topic):
        """Every message of the topic, from its first to the last that stands there now; each holds a valid pair."""
        consumer = Consumer({
            "bootstrap.servers": f"127.0.0.1:{self.port}",
            "group.id": "reader",
            "enable.auto.commit": False,
            "enable.partition.eof": False,
        })
        try:
            ends = {}
            for partition in range(PARTITIONS):
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
