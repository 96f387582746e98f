"""The groups: what is measured beside what. Each is a function from the seconds of a trial to its subjects, in the
order of the first round."""

import contextlib
import statistics
import time

import quota
import trial
from churn import Churned
from h2 import H2Subject
from parts import Shadowpair, bare, envoy, haproxy, nginx
from trial import Subject

RATE = 5000
BAD_RATE = 2000
FLOOD = 512 << 10
BODIES = {"1 KB": (955, 5000), "16 KB": (16 << 10, 2000), "256 KB": (256 << 10, 150)}


def direct(setting, folder):
    return None


def shadowpair(shadows=(), topic=False, **options):
    """Shadowpair before a good prod; `shadows` are percentages, each of a candidate of its own."""

    def start(setting, folder):
        to = [(percent, setting.stub(f"candidate {at}")) for at, percent in enumerate(shadows)]
        more = {"topic": setting.topic()} if topic else {}
        return Shadowpair(folder, setting.stub("prod"), to, **more, **options)

    return start


def peer(kind, mirror=False):
    """Another proxy before a good prod."""

    def start(setting, folder):
        candidate = [setting.stub("candidate 0")] if mirror else []
        return kind(folder, setting.stub("prod"), *candidate)

    return start


def plain():
    kinds = {
        "direct": direct, "nginx": peer(nginx), "haproxy": peer(haproxy), "envoy": peer(envoy),
        "bare hyper": peer(bare), "shadowpair": shadowpair(),
    }
    fixed = [Subject(name, start, RATE) for name, start in kinds.items()]
    return fixed + [Subject(f"{name}, saturated", start) for name, start in kinds.items()]


def mirror():
    return [
        Subject("nginx-mirror", peer(nginx, mirror=True), RATE),
        Subject("envoy-mirror", peer(envoy, mirror=True), RATE),
        Subject("bare hyper, mirrored", peer(bare, mirror=True), RATE),
        Subject("shadowpair, file", shadowpair([100]), RATE, pairs=1),
        Subject("shadowpair, kafka", shadowpair([100], topic=True), RATE, pairs=1),
    ]


def sampling():
    return [
        Subject("plain", shadowpair(), RATE),
        Subject("0 %", shadowpair([0]), RATE),
        Subject("10 %", shadowpair([10]), RATE),
        Subject("100 %", shadowpair([100]), RATE, pairs=1),
    ]


def bodies():
    """Requests and answers of one size. Prod and candidate have a stub of their own for each."""
    subjects = []
    for name, (size, rate) in BODIES.items():

        def on(make, size=size, mirrors=False):
            def start(setting, folder):
                prod, candidate = setting.stub("prod", body=size), setting.stub("candidate 0", body=size)
                return make(folder, prod, candidate) if mirrors else make(folder, prod)

            return start

        def shadowed(folder, prod, candidate):
            return Shadowpair(folder, prod, [(100, candidate)])

        for kind, start, pairs in [
            ("nginx", on(nginx), 0),
            ("shadowpair", on(Shadowpair), 0),
            ("nginx-mirror", on(nginx, mirrors=True), 0),
            ("envoy-mirror", on(envoy, mirrors=True), 0),
            ("shadowpair, file", on(shadowed, mirrors=True), 1),
        ]:
            subjects.append(Subject(f"{name}: {kind}", start, rate, pairs, body=size))
    return subjects


class Scraped(Subject):
    """Its metrics are scraped, too: how long that takes, and how much it is."""

    def look(self, setting, proxy, result):
        times = []
        for _ in range(5):
            began = time.monotonic()
            result["scrape_kb"] = len(proxy.scrape()) / 1024
            times.append((time.monotonic() - began) * 1e3)
        result["scrape_ms"] = statistics.median(times)


def routes():
    counts = {"1 route": 1, "100 routes": 100, "10,000 routes": 10_000}
    subjects = [Scraped(name, shadowpair(routes=count), RATE) for name, count in counts.items()]
    return subjects + [Scraped("10,000 routes, each with a shadow", shadowpair([0], routes=10_000), RATE)]


def candidates():
    return [Subject(f"{count} of 100 %", shadowpair([100] * count), 3000, pairs=count) for count in (1, 3)]


def h2():
    both = shadowpair(cores="0,1")
    return [H2Subject("8 clients", both, RATE), H2Subject("8 clients, saturated", both)]


def bad_shadow(options, **more):
    """Shadowpair with a small budget and a candidate that does this."""

    def start(setting, folder):
        shadows = [(100, setting.stub("candidate 0", aside=True, **options))]
        return Shadowpair(folder, setting.stub("prod"), shadows, shadow_bytes="16MiB", **more)

    return start


class Flooded(Subject):
    """Its candidate floods: how much of that the proxy draws is kept for the run that it is compared with."""

    def before(self, proxy):
        self.legs = proxy.legs("shadow")

    def look(self, setting, proxy, result):
        legs = proxy.legs("shadow") - self.legs
        result["flood_per_second"] = setting.drawn["rate"] = min(legs / setting.seconds, self.rate or legs)


class FloodedBeside(Subject):
    """Its candidate is good, and another process draws what the proxy drew in the run with the flood."""

    @contextlib.contextmanager
    def beside(self, setting):
        if "rate" not in setting.drawn:
            raise RuntimeError("there was no run with a flood to compare it with")
        # A rate of 0 would be a closed loop.
        with trial.drawing(setting, setting.stub("flood", aside=True, body=FLOOD), max(setting.drawn["rate"], 1)):
            yield


class Throttled(Subject):
    """In how many of the quota's periods it was stopped: 0 means that the quota did not bind."""

    def before(self, proxy):
        super().before(proxy)
        self.throttled = proxy.throttled()

    def look(self, setting, proxy, result):
        super().look(setting, proxy, result)
        result["throttled"] = proxy.throttled() - self.throttled


class ThrottledFlooded(Throttled, Flooded):
    pass


class ThrottledBeside(Throttled, FloodedBeside):
    pass


def isolation():
    return [
        Subject("good", bad_shadow({}), BAD_RATE),
        Subject("hangs", bad_shadow({"mode": "hang"}), BAD_RATE),
        Subject("resets", bad_shadow({"mode": "reset"}), BAD_RATE),
        Subject("answers 500", bad_shadow({"status": "500 Internal Server Error"}), BAD_RATE),
        Flooded("floods", bad_shadow({"body": FLOOD}), BAD_RATE),
        FloodedBeside("good, flood drawn past", bad_shadow({}), BAD_RATE),
    ]


def saturation():
    return [Subject("no shadow", shadowpair()), Subject("shadow 100 %", shadowpair([100]))]


def under_quota():
    """On both cores, but of a control group that may use one core's time."""

    def bounded(make):
        def start(setting, folder):
            group = setting.stack.enter_context(quota.one_core())
            proxy = make(setting, folder, group)
            proxy.throttled = group.throttled
            return proxy

        return start

    def without(setting, folder, group):
        return Shadowpair(folder, setting.stub("prod"), cores="0,1", prefix=group.prefix)

    def flooding(setting, folder, group):
        shadows = [(100, setting.stub("candidate 0", body=FLOOD))]
        return Shadowpair(folder, setting.stub("prod"), shadows, cores="0,1", prefix=group.prefix)

    return [
        Throttled("no shadow", bounded(without)),
        ThrottledFlooded("shadow 100 %, floods", bounded(flooding)),
        ThrottledBeside("no shadow, flood drawn past", bounded(without)),
    ]


def churn():
    def start(setting, folder):
        shadows = [(100, setting.stub("candidate 0")), (5, setting.stub("flood", body=FLOOD))]
        return Shadowpair(folder, setting.stub("prod"), shadows)

    return [Churned("an hour's worth", start)]


GROUPS = {
    "plain": plain, "mirror": mirror, "sampling": sampling, "bodies": bodies, "routes": routes,
    "candidates": candidates, "h2": h2, "isolation": isolation, "saturation": saturation, "quota": under_quota,
    "churn": churn,
}
