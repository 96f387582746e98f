"""An hour's worth of everything: connections that come and go, small and large bodies, a full core and a slow trickle, one
candidate that is good and one that floods. What is resident when all is quiet again must not grow with it."""

import time

import parts
import trial
from trial import Subject

# At a thousand a second.
REQUESTS = 3_600_000
# One turn, about nine seconds; each begins with connections of its own.
TURN = [
    {"seconds": 5},
    {"seconds": 1, "rate": 5000},
    {"seconds": 1, "rate": 1000, "body": 16 << 10},
    {"seconds": 1, "rate": 100, "body": 256 << 10},
    {"seconds": 1, "rate": 2000, "connections": 512},
]
SUMMED = ("sent", "answered", "counted", "broken", "not_ok")


class Churned(Subject):
    def drive(self, setting, proxy, seconds):
        if seconds == trial.WARM_UP:
            return super().drive(setting, proxy, seconds)
        total, self.resident, began = dict.fromkeys(SUMMED, 0), [], time.monotonic()
        while total["sent"] < REQUESTS:
            for part in TURN:
                result = parts.load(proxy.port, **{"warm_up": 0, "connections": trial.CONNECTIONS, "rate": 0, **part})
                total = {name: total[name] + result[name] for name in SUMMED}
            proxy.settle()
            # The allocator gives back what was freed 10 ms ago; buffers of connections go with these.
            time.sleep(1)
            self.resident.append(proxy.memory(peak=False))
        return result | total | {"rps": total["sent"] / (time.monotonic() - began)}

    def look(self, setting, proxy, result):
        quarter = max(len(self.resident) // 4, 1)
        result["early_mb"], result["late_mb"] = max(self.resident[:quarter]), max(self.resident[-quarter:])
