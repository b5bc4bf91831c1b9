"""JSON Schema of config files, for editors and other tools.

A file is a part of a config: others are merged over it, and overrides come last. So no key is demanded of a file, and
what a whole config must have says so in its description. Unknown keys and wrong values are refused as a run does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]


class _OfFiles(GenerateJsonSchema):
    """Keys without titles, which would only repeat their names; a section may leave out its `kind`, too."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def tagged_union_schema(self, schema: Any) -> Schema:
        found = super().tagged_union_schema(schema)
        return {"anyOf": found["oneOf"]}


def file_schema(model: type[BaseModel]) -> Schema:
    """The schema of the files of one config."""
    references, definitions = _definitions([model])
    return {"$schema": DIALECT, **references[model], "$defs": definitions}


def pipeline_schema(pipeline: type[BaseModel], stages: Mapping[str, type[BaseModel]]) -> Schema:
    """The schema of a pipeline's files: below `stages` every section is a file of its stage (`stages`: name → config).

    The pipeline gives each stage its output, seed and cluster; a section may set them, too.
    """
    references, definitions = _definitions([pipeline, *stages.values()])
    root = definitions[_name(references[pipeline])]
    description = root["properties"]["stages"]["description"]
    root["properties"]["stages"] = {
        "type": "object", "description": description, "minProperties": 1, "additionalProperties": False,
        "properties": {name: references[model] for name, model in stages.items()},
    }
    return {"$schema": DIALECT, **references[pipeline], "$defs": definitions}


def _definitions(models: Iterable[type[BaseModel]]) -> tuple[dict[type[BaseModel], Schema], dict[str, Schema]]:
    """A reference to each model, and the definitions that these refer to."""
    found, schema = models_json_schema([(model, "validation") for model in models], schema_generator=_OfFiles)
    definitions = {name: _of_a_part(definition) for name, definition in schema["$defs"].items()}
    return {model: reference for (model, _), reference in found.items()}, definitions


def _of_a_part(definition: Schema) -> Schema:
    """A section of which any key may stand in another file."""
    part = {key: value for key, value in definition.items() if key != "required"}
    required = definition.get("required", ())
    if "properties" in part:
        part["properties"] = {
            name: _told_required(field) if name in required else field for name, field in part["properties"].items()
        }
    return part


def _told_required(field: Schema) -> Schema:
    meaning = field.get("description")
    return {**field, "description": f"required; {meaning}" if meaning else "required"}


def _name(reference: Schema) -> str:
    return reference["$ref"].rpartition("/")[2]
