"""What a schema says and its grammar does not hold to, by name."""

from typing import Final

from dsv4_mlx.serving.character_grammar import QUOTED
from dsv4_mlx.serving.engine_grammar import engine_grammar_of
from dsv4_mlx.serving.json_grammar import types_of
from dsv4_mlx.serving.number_grammar import unheld_of_numbers
from dsv4_mlx.serving.one_of import may_overlap
from dsv4_mlx.serving.request import GenerationRequest
from dsv4_mlx.serving.schema_parts import parts_of
from dsv4_mlx.serving.string_grammar import unheld_of_strings

_UNHELD: Final = (
    "multipleOf",
    "uniqueItems",
    "contains",
    "patternProperties",
    "minProperties",
    "maxProperties",
    "not",
    "if",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedItems",
    "unevaluatedProperties",
)


def unheld(content: object) -> list[str]:
    """Keywords that our own grammar does not hold to, of a schema or a list of them, each once."""
    found: dict[str, None] = {}
    roots = content if isinstance(content, list) else [content]
    parts = [(part, root) for root in roots for part, _ in parts_of(root)]
    for part, root in parts:
        found |= dict.fromkeys(key for key in _UNHELD if key in part)
        found |= {"oneOf": None} if may_overlap(part, root) else {}
        found |= dict.fromkeys(unheld_of_strings(part, QUOTED))
        kinds = [kind for kind in types_of(part) if kind in ("integer", "number")]
        found |= dict.fromkeys(key for kind in kinds for key in unheld_of_numbers(part, kind))
    return list(found)


def unheld_of(request: GenerationRequest) -> list[str]:
    """Keywords of schemas that an answer to `request` should be held to and is not, each once: of
    its format, and of the parameters of tools that have to be called."""
    choice, schema = request.tool_choice, request.answer_format.schema
    schemas = [schema]
    if choice.kind in ("required", "named"):
        functions = [tool.get("function", tool) for tool in request.settings.tools]
        schemas += [
            one["parameters"]
            for one in functions
            if one.get("parameters") and choice.allows(str(one.get("name")))
        ]
    own = unheld(schemas)
    if request.is_schema_alone and (engine := engine_grammar_of(schema, own)) is not None:
        return list(engine.unheld)
    return own
