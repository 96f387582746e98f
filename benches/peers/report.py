"""Tables: a row for each subject, the median over the rounds and, where there were several, the smallest and largest.

The columns `cores` and `others` say how much of its core the proxy used while it was asked, and how much others did;
`load core`, how busy the other core was with load, stubs and all else."""

import statistics

import targets

# Title, field, decimals.
BASE = [
    ("CPU us/req", "cpu_us", 1), ("req/s", "rps", 0), ("p50 us", "p50_us", 0), ("p99 us", "p99_us", 0),
    ("p99.9 us", "p999_us", 0), ("peak MB", "peak_mb", 1), ("cores", "cores", 2),
    ("others", "others", 2), ("load core", "load_core", 2),
]
MORE = {
    "plain": [("added p50", "added_p50_us", 0), ("added p99", "added_p99_us", 0), ("added p99.9", "added_p999_us", 0)],
    "routes": [("scrape ms", "scrape_ms", 1), ("scrape KB", "scrape_kb", 0)],
    "h2": [("busiest worker / mean", "balance", 2)],
    "isolation": [("idle MB", "idle_mb", 1), ("grown MB", "growth_mb", 1), ("flood/s", "flood_per_second", 0)],
    "churn": [("idle MB", "idle_mb", 1), ("first quarter MB", "early_mb", 1), ("last quarter MB", "late_mb", 1)],
    "quota": [("throttled", "throttled", 0), ("flood/s", "flood_per_second", 0)],
}
PAIRS = [("pairs", "delivered", 0), ("dropped", "dropped", 0), ("shed", "skipped", 0)]
WITH_PAIRS = {"mirror", "sampling", "bodies", "candidates", "isolation", "saturation", "quota", "churn"}
FAILED = [("not 200", "not_ok", 0), ("broken", "broken", 0)]


def columns(group):
    return BASE + MORE.get(group, []) + (PAIRS if group in WITH_PAIRS else []) + FAILED


def add_differences(rounds):
    """What each proxy adds to the stub's own times in its round."""
    for results in rounds:
        base = results.get("direct", {})
        for name, result in results.items():
            for field in ("p50_us", "p99_us", "p999_us"):
                if field in base and field in result and "saturated" not in name:
                    result[f"added_{field}"] = result[field] - base[field]


def values(rounds, subject, field):
    """Those of the rounds that count."""
    results = [results.get(subject, {}) for results in rounds]
    return [result[field] for result in results if field in result and "does_not_count" not in result]


def cell(found, decimals, spread):
    if not found:
        return "-"
    text = f"{statistics.median(found):,.{decimals}f}"
    if spread and len(found) > 1:
        text += f" ({min(found):,.{decimals}f}..{max(found):,.{decimals}f})"
    return text


def spreads(field):
    """Whether the spread over the rounds is shown, too."""
    return field.endswith(("_us", "_mb")) or field == "rps"


def lay_out(head, rows):
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]

    def line(row):
        return "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])

    return "\n".join([line(head), "  ".join("-" * width for width in widths), *map(line, rows)])


def marked_down(head, rows):
    """The same as Markdown."""
    line = "| {} |".format
    cells = [line(" | ".join(row)) for row in rows]
    return "\n".join([line(" | ".join(head)), "|---|" + "---:|" * (len(head) - 1), *cells])


def table(group, rounds, subjects, form=lay_out):
    add_differences(rounds)
    shown = [column for column in columns(group) if any(values(rounds, subject, column[1]) for subject in subjects)]
    # A column of failures is shown where there are any.
    shown = [c for c in shown if c not in FAILED or any(sum(values(rounds, subject, c[1])) for subject in subjects)]
    rows = []
    for subject in subjects:
        cells = [cell(values(rounds, subject, field), decimals, spreads(field)) for _, field, decimals in shown]
        rows.append([subject, *cells])
    return form(["", *[title for title, _, _ in shown]], rows)


def remarks(rounds):
    """Trials that failed or do not count, and those that others disturbed."""
    lines, disturbed = [], {}
    for at, results in enumerate(rounds, 1):
        for name, result in results.items():
            if "error" in result:
                lines.append(f"round {at}: {name} FAILED: {result['error']}")
            if "does_not_count" in result:
                lines.append(f"round {at}: {name} does not count: {result['does_not_count']}")
            if result.get("others", 0) > 0.1:
                disturbed[name] = max(result["others"], disturbed.get(name, 0))
    if disturbed:
        shares = ", ".join(f"{name} ({share:.0%})" for name, share in disturbed.items())
        lines.append(f"others took over a tenth of the proxy's core beside: {shares}")
    return lines


def threads(rounds, subjects):
    """CPU by thread of those subjects that have several, in microseconds per request."""
    lines = []
    for subject in subjects:
        all_of = [results[subject].get("threads", {}) for results in rounds if subject in results]
        names = dict.fromkeys(name for one in all_of for name in one)
        if len(names) > 1:
            medians = {name: statistics.median([one.get(name, 0) for one in all_of]) for name in names}
            total = sum(medians.values())
            shares = [f"{name} {us:.1f} ({us / total:.0%})" for name, us in medians.items() if us >= 0.1]
            lines.append(f"CPU by thread, {subject}: {', '.join(shares)}")
    return lines


def verdicts(checks):
    lines = []
    for said in checks:
        bound = f"{'>=' if said['at_least'] else '<='} {said['bound']:g} {said['unit']}".rstrip()
        if "median" not in said:
            lines.append(f"  ?       {said['name']}: {bound}: no round counts")
            continue
        word = "met   " if said["met"] else "MISSED"
        spread = f" ({said['min']:.2f}..{said['max']:.2f}, {said['rounds']} rounds)" if said["rounds"] > 1 else ""
        lines.append(f"  {word}  {said['name']}: {said['median']:.2f}{spread}, target {bound}")
    return lines


def group(name, rounds, subjects):
    """All that is said of a group, and its targets as data."""
    checks = targets.check(name, rounds)
    parts = [f"\n== {name}, {len(rounds)} round{'s' if len(rounds) > 1 else ''}", table(name, rounds, subjects)]
    parts += threads(rounds, subjects) + remarks(rounds)
    if checks:
        parts += ["targets:", *verdicts(checks)]
    return "\n".join(parts), checks


def markdown(found):
    """What `--json` wrote, as the README shows it."""
    # Files that were written before there was a choice have none.
    rate = f", {found['rate']:,}/s" if "rate" in found else ""
    parts = [f"{found['date'][:10]}, {found['machine']}, {found['rounds']} round(s) of {found['seconds']:g} s each{rate}. "
             f"{'; '.join(found['versions'].values())}."]
    for name, measured in found["groups"].items():
        if "skipped" in measured:
            parts.append(f"**{name}**: skipped: {measured['skipped']}")
            continue
        rounds = measured["rounds"]
        parts.append(f"**{name}**")
        parts.append(table(name, rounds, list(rounds[0]), marked_down))
        parts += remarks(rounds)
    rows = []
    for said in found["targets"]:
        bound = f"{'≥' if said['at_least'] else '≤'} {said['bound']:g} {said['unit']}".strip()
        numbers = [f"{said[key]:.2f}" if key in said else "-" for key in ("median", "min", "max")]
        rows.append([f"{said['group']}: {said['name']}", bound, *numbers, "yes" if said.get("met") else "**no**"])
    parts += ["**targets**", marked_down(["", "target", "median", "min", "max", "met"], rows)]
    return "\n\n".join(parts)
