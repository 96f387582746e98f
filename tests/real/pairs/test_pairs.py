"""Very different pairs, read by the tools that data people have: one schema whichever records are read, and the same
sums by every reader."""

import gzip
import io
import json
import random
import threading
from collections import Counter
from pathlib import Path

import duckdb
import pandas
import polars
import pyarrow as pa
import pyarrow.compute
import pyarrow.json
import pytest

from harness.process import free_port
from harness.stub import Reply

ROUTES = Path(__file__).parent / "routes.yaml"


def answer_of(side, released):
    """The stub of one side. The candidate is a little off, carries its version, and hangs where asked to."""

    def answer(method, path, headers, body):
        where = path.split("?")[0].split("/")[1:]
        if where[0] == "candidate-hangs" and side == "candidate":
            released.wait(60)
        match where[-1]:
            case "missing":
                return Reply(b'{"error": "no such model"}', 404)
            case "broken" if side == "candidate":
                return Reply(b"Traceback (most recent call last)", 500, "text/plain")
            case "empty":
                return Reply(b"", 204, None)
            case "text":
                return Reply(f"Straße {side} ".encode() * 100, 200, "text/plain; charset=utf-8")
            case "bytes":
                return Reply(bytes(range(256)), 200, "application/octet-stream")
            case "nan":
                return Reply(b'{"score": NaN}', 200)
        off = side == "candidate"
        found = {
            "score": 1 if len(body) % 2 else 0.25 + 0.001 * off,
            "label": "fraud" if off and len(body) % 3 else "good",
            "words": "ja" if off else "nein",
            "vector": [1, 2.5, None] if off else [1, 2.5, 3],
            "rest": {"a": [1, "b", None]},
            "version": 7,
        }
        reply = Reply(json.dumps(found).encode())
        if where[-1] == "packed":
            return Reply(gzip.compress(reply.body), headers={"content-encoding": "gzip"})
        return reply

    return answer


def requests():
    """Each with the number of pairs that it makes."""
    as_json = {"content-type": "application/json"}
    for i in range(12):
        body = json.dumps({"id": [i, f"t-{i}", None, True][i % 4], "amount": [5, 50.5, 1e4, "x"][i % 4], "pad": "x" * i})
        extra = [{}, {"x-user": "ü".encode().decode("latin-1"), "x-country": "de"}, {"x-country": "7"}][i % 3]
        yield 1, ("POST", "/scores/a", body.encode(), {**as_json, **extra})
    for path in ("/scores/missing", "/scores/broken", "/scores/text", "/scores/bytes", "/scores/nan", "/scores/packed"):
        yield 1, ("POST", path, b'{"id": "2024-11-03", "amount": 1}', as_json)
    yield 1, ("POST", "/scores/packed", gzip.compress(b'{"id": 1}'), {**as_json, "content-encoding": "gzip"})
    yield 1, ("POST", "/scores/a", b'{"id": half', as_json)
    yield 1, ("GET", "/texts/text?plan=gold&token=secret", None, {"cookie": "a=b; session=s1"})
    yield 1, ("POST", "/texts/text?plan=", "größer ".encode() * 400, {"content-type": "text/plain"})
    yield 1, ("HEAD", "/texts/a", None, {})
    yield 1, ("DELETE", "/texts/empty", None, {"traceparent": f"00-{1:032x}-{1:016x}-01"})
    yield 1, ("POST", "/bytes/bytes", bytes([0, 255]) * 300, {})
    yield 1, ("PUT", "/bytes/a", b"", {"x-request-id": "2024-11-03 10:00:00"})
    yield 1, ("POST", "/values/a", b'{"id": "hidden"}', as_json)
    yield 1, ("POST", "/nothing/a", b"{}", as_json)
    yield 2, ("POST", "/twice/a", b'{"id": 3}', as_json)
    yield 1, ("POST", "/candidate-away/a", b"{}", as_json)
    yield 1, ("POST", "/prod-away/a", b"{}", as_json)
    yield 1, ("POST", "/candidate-hangs/a", b"{}", as_json)


@pytest.fixture
def serve(proxy, stub):
    """serve(NAME=value…) starts the proxy and sends it everything; returns it when every pair lies in a file."""
    released = threading.Event()
    ports = {f"{side.upper()}_PORT": stub(answer_of(side, released)).port for side in ("prod", "candidate")}

    def run(**environment):
        one = proxy(ROUTES, NOBODY_PORT=free_port(), **ports, **environment)
        all_requests = list(requests())
        one.ask_all([request for _, request in all_requests], at_once=4)
        one.scrape = one.settled(sum(pairs for pairs, _ in all_requests))
        return one

    yield run
    released.set()


# Readers see a column that is null throughout as of no type, an object without members as a struct or map of nothing, and
# an empty list as a list of nothing. That is all by which a subset may differ from the whole: `fits`.


def duckdb_fits(part, whole):
    if str(part) in (str(whole), '"NULL"', "NULL", "JSON"):
        return True
    if str(whole) == "VARCHAR":
        # DuckDB reads more into texts that all look alike.
        return part.id in ("uuid", "date", "time", "timestamp", "timestamp with time zone")
    if part.id == "map":
        return whole.id in ("map", "struct") and str(dict(part.children)["value"]) == "JSON"
    if part.id == whole.id == "struct":
        wholes = dict(whole.children)
        return all(name in wholes and duckdb_fits(child, wholes[name]) for name, child in part.children)
    if part.id == whole.id == "list":
        return duckdb_fits(part.children[0][1], whole.children[0][1])
    return False


def duckdb_types(lines, folder):
    file = folder / "subset.jsonl"
    file.write_bytes(b"".join(line + b"\n" for line in lines))
    read = duckdb.read_json(str(file), format="newline_delimited")
    return dict(zip(read.columns, read.types))


def pyarrow_fits(part, whole):
    if part == whole or pa.types.is_null(part):
        return True
    if pa.types.is_struct(part) and pa.types.is_struct(whole):
        return all(
            whole.get_field_index(field.name) >= 0 and pyarrow_fits(field.type, whole.field(field.name).type) for field in part
        )
    if pa.types.is_list(part) and pa.types.is_list(whole):
        return pyarrow_fits(part.value_type, whole.value_type)
    if pa.types.is_string(whole):
        return pa.types.is_timestamp(part)
    return False


def pyarrow_types(lines, _folder):
    schema = pa.json.read_json(io.BytesIO(b"".join(line + b"\n" for line in lines))).schema
    return {field.name: field.type for field in schema}


READERS = {"duckdb": (duckdb_types, duckdb_fits), "pyarrow": (pyarrow_types, pyarrow_fits)}


@pytest.mark.parametrize("reader", READERS)
def test_any_subset_of_the_records_has_the_schema_of_the_whole(serve, reader, tmp_path):
    types, fits = READERS[reader]
    lines = serve().pair_lines()
    whole = types(lines, tmp_path)
    draw = random.Random(7)
    subsets = [[line] for line in lines] + [draw.sample(lines, draw.randint(2, len(lines))) for _ in range(60)]
    for subset in subsets:
        part = types(subset, tmp_path)
        assert list(part) == list(whole)
        strange = {name: (str(part[name]), str(whole[name])) for name in part if not fits(part[name], whole[name])}
        assert not strange, f"{strange}\n{subset[0].decode()}"


def leaves(prefix, kind):
    """Every column without members, with its type's name in DuckDB."""
    if kind.id in ("struct", "list"):
        for name, child in kind.children:
            yield from leaves(f"{prefix}[]" if kind.id == "list" else f"{prefix}.{name}", child)
    else:
        yield prefix, str(kind)


def test_every_column_has_the_type_that_the_contract_gives_it(serve, tmp_path):
    found = dict(leaf for name, kind in duckdb_types(serve().pair_lines(), tmp_path).items() for leaf in leaves(name, kind))
    numbers = {name for name, kind in found.items() if kind == "DOUBLE"}
    values = {f"comparison.values[].{name}[]" for name in ("prod", "candidate", "delta")}
    assert numbers == {"sample_percent"} | values
    counts = {name for name, kind in found.items() if kind == "BIGINT"}
    leg = ("status", "start_us", "sent_us", "first_byte_us", "total_us", "lag_us", "bytes")
    assert counts == {"seq", "answered_by.status", "request.bytes", "tally.seen", "tally.sampled", "tally.skipped"} | {
        f"{side}.{name}" for side in ("prod", "candidate") for name in leg
    }
    flags = {name for name, kind in found.items() if kind == "BOOLEAN"}
    assert flags == {"comparison.equal", "comparison.within_tolerance", "comparison.differs_at_truncated"} | {
        f"{side}.{name}" for side in ("prod", "candidate") for name in ("reused", "body.truncated")
    } | {"request.body.truncated"}
    # No canary and no gRPC here: null throughout.
    unseen = {"bucket", "prod.grpc_status", "candidate.grpc_status"}
    texts = {"VARCHAR", "UUID", "DATE", "TIMESTAMP WITH TIME ZONE"}
    others = {n: k for n, k in found.items() if n not in numbers | counts | flags | unseen and k not in texts}
    assert not others, "columns of mixed or of no type"


def test_every_record_has_the_same_keys_in_the_same_order(serve):
    def shape(found, free=("labels", "keys", "slices", "headers")):
        return {k: shape(v) if isinstance(v, dict) and k not in free else None for k, v in found.items() if k != "comparison"}

    shapes = {json.dumps(shape(pair)) for pair in serve().pairs()}
    assert len(shapes) == 1


def test_the_traffic_was_as_different_as_it_should_be(serve):
    pairs = serve().pairs()

    def seen(column):
        return {column(pair) for pair in pairs}

    assert seen(lambda p: p["result"]) >= {
        "equal", "differs", "uncompared", "candidate_failed", "prod_failed", "both_failed"
    }
    assert seen(lambda p: p["candidate"]["role"]) == {"shadow", "control"}
    assert seen(lambda p: p["candidate"]["outcome"]) >= {"ok", "http_error", "connect_error", "timeout"}
    assert seen(lambda p: p["prod"]["outcome"]) >= {"ok", "http_error", "connect_error"}
    assert seen(lambda p: p["request"]["body"]["encoding"]) == {"json", "utf8", "base64", "none"}
    assert seen(lambda p: p["candidate"]["body"]["reason"]) >= {"empty", "not_captured", None}
    assert seen(lambda p: p["candidate"]["body"]["truncated"]) == {True, False}
    assert len(seen(lambda p: tuple(p["keys"]))) >= 3 and len(seen(lambda p: tuple(p["slices"]))) >= 3
    assert all("secret" not in json.dumps(pair) for pair in pairs)


def truth(pairs):
    """The sums, by nothing but a loop."""
    times = [pair["prod"]["total_us"] for pair in pairs if pair["prod"]["total_us"] is not None]
    return {
        "by result": dict(Counter(pair["result"] for pair in pairs)),
        "request bytes": sum(pair["request"]["bytes"] for pair in pairs),
        "candidate bytes": sum(pair["candidate"]["bytes"] for pair in pairs),
        "mean prod time": sum(times) / len(times),
        "percent": sum(pair["sample_percent"] for pair in pairs),
    }


def sums_by_duckdb(file):
    pairs = duckdb.read_json(str(file), format="newline_delimited")
    [sums] = duckdb.sql(
        "select sum(request.bytes), sum(candidate.bytes), avg(prod.total_us), sum(sample_percent) from pairs"
    ).fetchall()
    by_result = dict(duckdb.sql("select result, count(*) from pairs group by result").fetchall())
    return by_result, *sums


def sums_by_pyarrow(file):
    pairs = pa.json.read_json(file)
    column = lambda *path: pa.compute.struct_field(pairs[path[0]], list(path[1:]))
    by_result = {row["values"]: row["counts"] for row in pairs["result"].value_counts().to_pylist()}
    sums = [
        pa.compute.sum(column("request", "bytes")),
        pa.compute.sum(column("candidate", "bytes")),
        pa.compute.mean(column("prod", "total_us")),
        pa.compute.sum(pairs["sample_percent"]),
    ]
    return by_result, *(found.as_py() for found in sums)


def sums_by_pandas(file):
    pairs = pandas.read_json(file, lines=True)
    column = lambda name, key: pairs[name].map(lambda leg: leg[key])
    return (
        pairs.groupby("result").size().to_dict(),
        column("request", "bytes").sum(),
        column("candidate", "bytes").sum(),
        column("prod", "total_us").mean(),
        pairs["sample_percent"].sum(),
    )


def sums_by_polars(file):
    pairs = polars.read_ndjson(file, infer_schema_length=None)
    field = lambda name, key: pairs[name].struct.field(key)
    return (
        dict(pairs["result"].value_counts().iter_rows()),
        field("request", "bytes").sum(),
        field("candidate", "bytes").sum(),
        field("prod", "total_us").mean(),
        pairs["sample_percent"].sum(),
    )


@pytest.mark.parametrize("reader", [sums_by_duckdb, sums_by_pyarrow, sums_by_pandas, sums_by_polars])
def test_every_reader_comes_to_the_same_sums(serve, reader):
    one = serve()
    [file] = one.pairs_dir.glob("pairs-*.jsonl")
    expected = truth(one.pairs())
    by_result, request_bytes, candidate_bytes, mean_time, percent = reader(file)
    assert by_result == expected["by result"] == one.scrape.by("shadowpair_pairs_total", "result")
    assert (request_bytes, candidate_bytes) == (expected["request bytes"], expected["candidate bytes"])
    assert mean_time == pytest.approx(expected["mean prod time"], rel=1e-12)
    assert percent == expected["percent"]


def test_a_compressed_file_is_read_while_it_is_written(serve):
    one = serve(COMPRESS="zstd")
    by_result = duckdb.sql(
        f"select result, count(*) from read_json('{one.pairs_dir}/pairs-*.jsonl.zst', format='newline_delimited') group by 1"
    ).fetchall()
    assert dict(by_result) == one.scrape.by("shadowpair_pairs_total", "result")


def test_compare_counts_the_same_pairs(serve, shadowpair, tmp_path):
    one = serve()
    done = shadowpair("compare", one.pairs_dir, "--json", tmp_path / "report.json")
    assert done.returncode == 0, done.stderr
    counted = Counter()
    for group in json.loads((tmp_path / "report.json").read_text())["groups"]:
        counted.update({name: share["count"] for name, share in group["results"].items() if share["count"]})
    assert counted == one.scrape.by("shadowpair_pairs_total", "result")
