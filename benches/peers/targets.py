"""What issue and README promise, as ratios within one run: the median over the rounds that count."""

import statistics


class Target:
    """`value(results)` is a number of one round of a group; at most (or at least) `bound`."""

    def __init__(self, group, name, value, bound, at_least=False, unit="x"):
        self.group, self.name, self.value = group, name, value
        self.bound, self.at_least, self.unit = bound, at_least, unit

    def check(self, rounds):
        values = []
        for results in rounds:
            try:
                values.append(self.value(results))
            except (KeyError, ZeroDivisionError):
                continue
        said = {"group": self.group, "name": self.name, "bound": self.bound, "at_least": self.at_least}
        said |= {"unit": self.unit, "rounds": len(values)}
        if values:
            median = statistics.median(values)
            said |= {"median": median, "min": min(values), "max": max(values)}
            said["met"] = median >= self.bound if self.at_least else median <= self.bound
        return said


def get(results, subject, field):
    """A number of a subject; none of one that failed or does not count."""
    result = results[subject]
    if "error" in result or "does_not_count" in result:
        raise KeyError(subject)
    return result[field]


def ratio(subject, other, field):
    return lambda results: get(results, subject, field) / get(results, other, field)


def number(subject, field):
    return lambda results: get(results, subject, field)


def added(subject, field):
    """What a proxy adds to the stub's own, in the same round."""
    return lambda results: get(results, subject, field) - get(results, "direct", field)


def added_ratio(subject, other, field):
    def value(results):
        base = added(other, field)(results)
        if base <= 0:
            # Lost in what the stub's own times differ by: this round has nothing to compare with.
            raise ZeroDivisionError
        return added(subject, field)(results) / base

    return value


def ratio_of(subject, field, other):
    return lambda results: get(results, subject, field) / get(results, subject, other)


def refused(subject):
    return lambda results: get(results, subject, "not_ok") + get(results, subject, "broken")


PLAIN, FULL = "shadowpair", "shadowpair, kafka"
FLOODED, PAST = "shadow 100 %, floods", "good, flood drawn past"
CHURN = "an hour's worth"
BAD = ["hangs", "resets", "answers 500", "floods"]

TARGETS = [
    Target("plain", "plain, CPU against nginx", ratio(PLAIN, "nginx", "cpu_us"), 1.25),
    Target("plain", "the same, saturated", ratio(f"{PLAIN}, saturated", "nginx, saturated", "cpu_us"), 1.25),
    Target("plain", "added p99 against nginx's", added_ratio(PLAIN, "nginx", "p99_us"), 1),
    Target("plain", "peak memory, plain", number(f"{PLAIN}, saturated", "peak_mb"), 30, unit="MB"),
    Target("mirror", "full job (kafka), CPU against envoy-mirror", ratio(FULL, "envoy-mirror", "cpu_us"), 0.55),
    Target("mirror", "full job (kafka), CPU against nginx-mirror", ratio(FULL, "nginx-mirror", "cpu_us"), 0.75),
    Target("mirror", "peak memory, file", number("shadowpair, file", "peak_mb"), 30, unit="MB"),
    Target("mirror", "peak memory, kafka", number(FULL, "peak_mb"), 30, unit="MB"),
    Target("sampling", "0 % sampling, CPU against plain", ratio("0 %", "plain", "cpu_us"), 1.05),
    Target("routes", "10,000 routes, CPU against one", ratio("10,000 routes", "1 route", "cpu_us"), 1.05),
    *[Target("isolation", f"{bad}: prod's p99 against good", ratio(bad, "good", "p99_us"), 1.2) for bad in BAD[:3]],
    Target("isolation", "floods: prod's p99 against the flood drawn past", ratio("floods", PAST, "p99_us"), 1.5),
    *[Target("isolation", f"{bad}: memory growth", number(bad, "growth_mb"), 24, unit="MB") for bad in BAD],
    *[Target("isolation", f"{bad}: answers that are not 200", refused(bad), 0, unit="") for bad in BAD],
    Target("saturation", "answers/s against no shadow", ratio("shadow 100 %", "no shadow", "rps"), 0.85, True),
    Target("saturation", "answers that are not 200", refused("shadow 100 %"), 0, unit=""),
    Target("quota", "answers/s against no shadow", ratio(FLOODED, "no shadow", "rps"), 0.85, True),
    Target("quota", "answers that are not 200", refused(FLOODED), 0, unit=""),
    Target("churn", "resident at rest, the last quarter against the first", ratio_of(CHURN, "late_mb", "early_mb"), 1.1),
    Target("churn", "answers that are not 200", refused(CHURN), 0, unit=""),
]


def check(group, rounds):
    return [target.check(rounds) for target in TARGETS if target.group == group]
