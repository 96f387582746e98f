"""Measures shadowpair beside other proxies: `benches/peers/run [OPTION...] [GROUP...]`.

All subjects of a group are measured once in each round, one after the other, so that what drifts on the machine drifts
under all of them; each round begins with another subject. How and why: benches/README.md."""

import argparse
import datetime
import json
import os
import signal
import sys

import groups
import parts
import quota
import report
import trial
from groups import GROUPS


def arguments():
    parser = argparse.ArgumentParser(prog="benches/peers/run", description=__doc__.split("\n")[0])
    parser.add_argument("groups", nargs="*", metavar="GROUP", help="which groups; without one, all")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="trials of each subject [%(default)s]")
    parser.add_argument("--seconds", type=float, default=5, metavar="S", help="length of a trial [%(default)s]")
    rate = "requests/s of plain, mirror, sampling, routes and h2; lower, where it fills a peer's core [%(default)s]"
    parser.add_argument("--rate", type=int, default=groups.RATE, metavar="R", help=rate)
    parser.add_argument("--json", metavar="FILE", help="where all numbers of all trials go")
    parser.add_argument("--markdown", metavar="FILE", help="prints what --json wrote as Markdown; measures nothing")
    parser.add_argument("--list", action="store_true", help="lists groups and subjects, and measures nothing")
    chosen = parser.parse_args()
    for name in chosen.groups:
        if name not in GROUPS:
            parser.error(f"no group {name}; there are {', '.join(GROUPS)}")
    if chosen.rounds < 1 or chosen.seconds < 1:
        parser.error("a trial lasts a second at least, and there is one round at least")
    if chosen.rate < 1:
        parser.error("--rate is at least one request a second")
    return chosen


def one_trial(setting, subject):
    """A trial that fails is told and the next one goes on."""
    try:
        return trial.run(setting, subject)
    except Exception as error:
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())[:500]}


def measure(name, rounds, seconds):
    """All rounds of a group: for each, the results by subject."""
    subjects, all_rounds = GROUPS[name](), []
    with trial.Setting(seconds) as setting:
        for at in range(rounds):
            results = {}
            first = at % len(subjects)
            for subject in subjects[first:] + subjects[:first]:
                results[subject.name] = result = one_trial(setting, subject)
                said = result.get("error") or f"{result.get('cpu_us', 0):.1f} us, p99 {result['p99_us']:.0f} us"
                print(f"   {name} {at + 1}/{rounds}: {subject.name}: {said}", file=sys.stderr, flush=True)
            all_rounds.append(results)
    return [subject.name for subject in subjects], all_rounds


def versions():
    return {
        "nginx": trial.version(["nginx", "-v"]),
        "haproxy": trial.version(["haproxy", "-v"]),
        "envoy": trial.version([parts.ENVOY, "--version"]),
        "h2load": trial.version(["h2load", "--version"]),
        "shadowpair": trial.version([parts.SHADOWPAIR, "--version"]),
    }


def main():
    chosen = arguments()
    groups.RATE = chosen.rate
    if chosen.list:
        for name, group in GROUPS.items():
            print(f"{name}: {'; '.join(subject.name for subject in group())}")
        return 0
    if chosen.markdown:
        with open(chosen.markdown, encoding="utf-8") as written:
            print(report.markdown(json.load(written)))
        return 0
    # Whoever ends this program ends what it started, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if os.cpu_count() < 2:
        sys.exit("two cores are needed: one for the proxy, one for the load and the stubs")
    found = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores",
        "versions": versions(), "rounds": chosen.rounds, "seconds": chosen.seconds, "rate": chosen.rate,
        "groups": {}, "targets": [],
    }
    print(f"{found['date']}, {found['machine']}, {chosen.rounds} rounds of {chosen.seconds:g} s, {chosen.rate}/s")
    print("; ".join(found["versions"].values()), flush=True)
    for name in chosen.groups or GROUPS:
        reason = quota.why_not() if name == "quota" else None
        if reason:
            print(f"\n== {name}: skipped: {reason}", flush=True)
            found["groups"][name] = {"skipped": reason}
            continue
        subjects, rounds = measure(name, chosen.rounds, chosen.seconds)
        text, checks = report.group(name, rounds, subjects)
        print(text, flush=True)
        found["groups"][name] = {"rounds": rounds}
        found["targets"] += checks
        # After each group: what was measured survives whatever comes.
        if chosen.json:
            with open(chosen.json, "w", encoding="utf-8") as out:
                json.dump(found, out, indent=1)
                out.write("\n")
    missed = [said["name"] for said in found["targets"] if not said.get("met")]
    print(f"\n{len(found['targets']) - len(missed)} of {len(found['targets'])} targets met")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
