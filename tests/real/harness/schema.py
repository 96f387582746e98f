"""The JSON Schemas that the program prints, held against what it takes and makes by a validator that is not ours."""

import functools
import json

from jsonschema import Draft202012Validator, FormatChecker
from ruamel.yaml import YAML

from .program import shadowpair

# YAML 1.2's core schema, as editors read it: it knows no dates.
_YAML = YAML(typ="safe", pure=True)
_YAML.constructor.add_constructor("tag:yaml.org,2002:timestamp", lambda _constructor, node: node.value)


def read_yaml(text):
    return _YAML.load(text)


@functools.cache
def _validator(of):
    done = shadowpair("schema", of)
    assert (done.returncode, done.stderr) == (0, "")
    schema = json.loads(done.stdout)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=FormatChecker())


def faults(of, document):
    """What the schema of a `routing` file or a `pair` has against this one."""
    return [f"{fault.json_path}: {fault.message}" for fault in _validator(of).iter_errors(document)]


def assert_valid(of, document):
    found = faults(of, document)
    assert not found, "\n".join(found)
