"""The JSON Schema against configurations: check_schema.py SCHEMA CONFIG..., each with whether it is one: path=yes or path=no"""

import json
import sys

import jsonschema
import yaml

with open(sys.argv[1]) as file:
    schema = json.load(file)
jsonschema.Draft202012Validator.check_schema(schema)
for case in sys.argv[2:]:
    path, verdict = case.rsplit("=", 1)
    with open(path) as file:
        config = yaml.safe_load(file)
    errors = [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(config)]
    assert bool(errors) == (verdict == "no"), (path, errors)
print(f"ok: {len(sys.argv) - 2} configurations")
