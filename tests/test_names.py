"""Two types of our packages never share a public name, so that a name says which one is meant."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("metal_kernels", "dsv4_mlx", "convert", "cli")
# mlx-lm makes a model of the class `Model` in a module that it finds by the type of the checkpoint.
OTHERS_CALL_IT_SO = {"dsv4_mlx/mlx_lm.py": {"Model"}}


def types(tree: ast.Module) -> Iterator[str]:
    """The public classes and aliases of types that a file defines at its top level."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign) and not is_type_variable(node.value):
            yield from (
                target.id
                for target in node.targets
                if isinstance(target, ast.Name)
                and target.id[0].isupper()
                and not target.id.isupper()
            )


def is_type_variable(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and ast.unparse(value.func) in ("TypeVar", "ParamSpec")


def defined() -> dict[str, list[str]]:
    """Public names of types -> the files that define one."""
    found: dict[str, list[str]] = defaultdict(list)
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            for kind in types(ast.parse(path.read_text(encoding="utf-8"))):
                if not kind.startswith("_") and kind not in OTHERS_CALL_IT_SO.get(name, ()):
                    found[kind].append(name)
    return found


def test_types_are_found_by_class_and_by_alias() -> None:
    text = "class One: pass\nTwo = One | None\nThree = TypeVar('Three')\nFOUR = 4\nfive = One"
    assert list(types(ast.parse(text))) == ["One", "Two"]
    assert defined()["Event"] == ["dsv4_mlx/chat/events.py"]


def test_no_two_public_types_share_a_name() -> None:
    shared = {name: files for name, files in defined().items() if len(files) > 1}
    assert shared == {}
