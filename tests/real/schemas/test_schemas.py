"""The printed schemas against the routing files that the program takes and those it refuses. That every pair of every
suite is valid is asserted where the harness reads them."""

import copy
from pathlib import Path

import pytest

from harness.schema import assert_valid, faults, read_yaml

VALID = sorted((Path(__file__).parents[2] / "fixtures" / "config" / "valid").glob("*.yaml"))


def load(file):
    return read_yaml(file.read_text(encoding="utf-8-sig"))


@pytest.mark.parametrize("file", VALID, ids=lambda file: file.stem)
def test_what_the_program_takes_the_schema_takes(file):
    assert_valid("routing", load(file))


def blocks(found):
    """Every mapping within, the whole included."""
    if isinstance(found, dict):
        yield found
    children = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
    for child in children:
        yield from blocks(child)


@pytest.mark.parametrize("file", VALID, ids=lambda file: file.stem)
def test_a_misspelt_key_is_refused_in_every_block_that_has_keys_of_its_own(file):
    whole = load(file)
    own = [number for number, block in enumerate(blocks(whole)) if block.keys() & {"models", "prod", "endpoints", "listen"}]
    assert own
    for number in own:
        spoilt = copy.deepcopy(whole)
        list(blocks(spoilt))[number]["no_such_key"] = 1
        assert faults("routing", spoilt)


@pytest.mark.parametrize("missing", ["version", "models", "routes"])
def test_what_is_required_is_missed(missing):
    whole = load(VALID[0])
    del whole[missing]
    assert faults("routing", whole)
