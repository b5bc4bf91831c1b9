"""Condenses the schemas of CustomResourceDefinitions into one file that the package ships.

    python cluster/condense_schemas.py PROJECT VERSION OUTPUT.json.gz CRD.yaml…

What is kept is what decides whether a manifest is valid: types, fields, defaults, enums, patterns, list keys.
Descriptions and CEL rules (which need an API server) are left out. The same input gives the same bytes.
docs/kuberay.md says which files the shipped ones were made from.
"""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import yaml

_LEFT_OUT = ("description", "x-kubernetes-validations", "externalDocs", "example")
_MAPS = ("properties", "patternProperties")  # their keys are names of fields, which may be called `description`


def condensed(schema: Any) -> Any:
    """A schema without what only people and API servers read."""
    if isinstance(schema, list):
        return [condensed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: condensed(part) for name, part in value.items()} if key in _MAPS else condensed(value)
        for key, value in schema.items()
        if key not in _LEFT_OUT
    }


def kinds(definition: dict[str, Any]) -> dict[str, Any]:
    """`group/version/Kind` → condensed schema, for every version that a definition serves."""
    spec = definition["spec"]
    return {
        f"{spec['group']}/{version['name']}/{spec['names']['kind']}": {
            "deprecated": bool(version.get("deprecated")),
            "namespaced": spec["scope"] == "Namespaced",
            "schema": condensed(version["schema"]["openAPIV3Schema"]),
        }
        for version in spec["versions"]
        if version["served"]
    }


def main(project: str, version: str, output: str, *files: str) -> None:
    """Read the definitions and write the condensed file."""
    found: dict[str, Any] = {}
    for file in files:
        # libyaml's safe loader: these files have megabytes
        found.update(kinds(yaml.CSafeLoader(Path(file).read_text(encoding="utf-8")).get_single_data()))
    content = {"project": project, "version": version, "licence": "Apache-2.0", "kinds": found}
    text = json.dumps(content, separators=(",", ":"), sort_keys=True)
    Path(output).write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{output}: {len(found)} kinds of {project} {version}")


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
