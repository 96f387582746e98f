"""check_compose.py SCHEMA FILE: holds a Compose file against the schema, and what it mounts and builds against the disk."""

import json
import sys
from pathlib import Path

import jsonschema
import yaml


def main(schema, file):
    compose = yaml.safe_load(file.read_text())
    jsonschema.validate(compose, json.loads(schema.read_text()))
    for name, service in compose["services"].items():
        mounts = [file.parent / volume.split(":")[0] for volume in service.get("volumes", [])]
        if "build" in service:
            context = file.parent / service["build"]["context"]
            mounts.append(context / service["build"]["dockerfile"])
        missing = [str(path) for path in mounts if not path.exists()]
        assert not missing, f"{name} wants what is not there: {missing}"
    print(" ".join(sorted(compose["services"])))


main(Path(sys.argv[1]), Path(sys.argv[2]))
