"""One scrape, read as Prometheus would."""

import re

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Scrape:
    def __init__(self, text):
        self.text = text
        self.samples = []
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, labels, value = _SAMPLE.match(line).groups()
                self.samples.append((name, dict(_LABEL.findall(labels or "")), float(value)))

    def sum(self, name, **labels):
        """The sum of a family's samples that carry these labels."""
        return sum(v for n, have, v in self.samples if n == name and labels.items() <= have.items())

    def by(self, name, label):
        """A family's sums by one label, without zeros."""
        sums = {}
        for sample, labels, value in self.samples:
            if sample == name and value:
                sums[labels[label]] = sums.get(labels[label], 0) + value
        return sums

    @property
    def made(self):
        return self.sum("shadowpair_pairs_total")

    @property
    def delivered(self):
        return self.sum("shadowpair_pairs_delivered_total")

    @property
    def dropped(self):
        return self.sum("shadowpair_pairs_dropped_total")

    @property
    def waiting(self):
        return self.sum("shadowpair_pairs_queue_depth") + self.sum("shadowpair_spool_pairs")

    def assert_sum_holds(self):
        """What the contract promises of every scrape."""
        recovered = self.sum("shadowpair_pairs_recovered_total")
        assert self.made + recovered == self.delivered + self.dropped + self.waiting, self.text
