"""The arrows of docs/architecture.md, read off the source: who may import whom."""

import ast
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("metal_kernels", "dsv4_mlx", "convert", "cli")
BY_HAND = {"mlx_lm", "transformers", "torch"}
# What each room of dsv4_mlx may import of the others; errors are everybody's.
ROOMS = {
    "files": (),
    "release": ("files",),
    "weights": ("release", "files"),
    "cache": ("release", "files"),
    "model": ("cache", "device", "release"),
    "sizing": ("weights", "release", "files"),
    "engine": ("cache", "device", "sizing", "release", "files"),
    "chat": ("engine", "release", "files"),
    "serving": ("chat", "engine", "cache", "sizing", "release", "files"),
    "unloaded": ("model", "cache", "weights"),
    "warm_up": ("unloaded", "model", "weights", "release"),
    "broken_kernels": ("warm_up",),
    "exact_rows": ("broken_kernels", "engine", "model", "cache", "device", "weights", "release"),
    "pipeline": (
        "broken_kernels",
        "warm_up",
        "unloaded",
        "sizing",
        "model",
        "cache",
        "device",
        "weights",
        "release",
        "files",
    ),
    "loading": (
        "pipeline",
        "broken_kernels",
        "exact_rows",
        "warm_up",
        "unloaded",
        "model",
        "weights",
        "chat",
        "device",
        "sizing",
        "streamed",
    ),
    "streamed": ("whole_layers", "model", "weights", "sizing", "device", "release"),
    "whole_layers": ("model", "weights", "release"),
    "tracing": ("unloaded", "model", "cache", "weights", "release", "files"),
    "scripted": ("chat", "engine", "cache", "release", "files"),
    "testing": ("chat", "cache", "release", "files"),
    "training": (
        "testing",
        "loading",
        "chat",
        "engine",
        "model",
        "cache",
        "release",
        "files",
        "blas",
    ),
    "blas": (),
    "device": (),
    "peers": ("files",),
    "forming": ("pipeline", "peers", "unloaded", "model", "weights", "release", "sizing"),
}
# The doors, which open to all rooms, and what stands in front of them.
DOORS = {"__init__", "about", "before_mlx", "errors", "mlx_lm", "mlx_lm_server"}
# What the terminal may know of the model: engines and sessions, text, files, facts and sizes; and
# the engine that follows a script.
CLI_SEES = {
    "about",
    "chat",
    "device",
    "engine",
    "errors",
    "files",
    "forming",
    "loading",
    "peers",
    "release",
    "scripted",
    "serving",
    "sizing",
    "weights.checkpoint",
    "weights.expert_trace",
}


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(file: Path) -> Iterator[str]:
    """The absolute dotted names that `file` imports, wherever in the file."""
    return names_in(file, ast.walk(parsed(file)))


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def names_in(file: Path, nodes: Iterable[ast.AST]) -> Iterator[str]:
    """The absolute dotted names that the import statements among `nodes` of `file` import."""
    module = file.relative_to(ROOT).with_suffix("").parts
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = module[: len(module) - node.level] if node.level else ()
            base = ".".join([*start, *filter(None, [node.module])])
            # `from package import module` names a module as much as a value.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def top(name: str) -> str:
    return name.partition(".")[0]


def found(package: str, forbidden: set[str]) -> list[str]:
    """Imports in `package` of a top-level package that is forbidden there."""
    return [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files(package)
        for name in imports(file)
        if top(name) in forbidden
    ]


def test_the_reader_of_imports_reads_something() -> None:
    file = ROOT / "dsv4_mlx" / "chat" / "messages.py"
    assert "dsv4_mlx.errors.PromptError" in set(imports(file))
    assert all(files(package) for package in PACKAGES)


@pytest.mark.parametrize("package", ["metal_kernels", "dsv4_mlx"])
def test_nothing_imports_the_applications(package: str) -> None:
    assert found(package, {"cli", "convert"}) == []


def test_the_applications_do_not_import_each_other() -> None:
    assert found("cli", {"convert"}) == []
    assert found("convert", {"cli"}) == []


def test_metal_kernels_is_the_lowest_layer() -> None:
    assert found("metal_kernels", set(PACKAGES) - {"metal_kernels"}) == []


def test_mlx_lm_and_its_family_have_one_door() -> None:
    door = ROOT / "dsv4_mlx" / "mlx_lm.py"
    offenders = [
        f"{file.relative_to(ROOT)} imports {name}"
        for package in PACKAGES
        for file in files(package)
        if file != door
        for name in imports(file)
        if top(name) in BY_HAND
    ]
    assert offenders == []


@pytest.mark.parametrize(
    "module",
    [
        "chat.messages",
        "chat.encoding",
        "chat.parsing",
        "files.documents",
        "release.config_file",
        "release.tensors",
        "sizing.costs",
        "sizing.machines",
        "sizing.prefill",
        "engine.sampling",
    ],
)
def test_text_and_facts_need_no_mlx(module: str) -> None:
    reached = reachable(f"dsv4_mlx.{module}")
    assert [name for name in reached if top(name) == "mlx"] == []


def reachable(module: str) -> set[str]:
    """Every name that importing `module` brings along through our own packages."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        file = source(waiting.pop())
        if file is None or str(file) in seen:
            continue
        seen.add(str(file))
        names = runtime_imports(file)
        seen.update(names)
        waiting += [name for name in names if top(name) in PACKAGES]
    return seen


def source(name: str) -> Path | None:
    """The file of a dotted module name; of its module when the name is a value inside one."""
    for parts in (name.split("."), name.split(".")[:-1]):
        base = ROOT.joinpath(*parts)
        for file in (base.with_suffix(".py"), base / "__init__.py"):
            if parts and file.is_file():
                return file
    return None


def runtime_imports(file: Path) -> list[str]:
    """`imports` of the top level of a file: what importing it executes."""
    return list(names_in(file, parsed(file).body))


def executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node below `tree` that a running program may reach: none that only types ask for."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from executed(node)


def needs() -> dict[str, set[str]]:
    """The files of our packages that each of them imports, at import time or in a function."""
    found: dict[str, set[str]] = {}
    for file in (file for package in PACKAGES for file in files(package)):
        names = [name for name in names_in(file, executed(parsed(file))) if top(name) in PACKAGES]
        sources = {source(name) for name in names} - {None, file}
        found[place(file)] = {place(one) for one in sources if one is not None}
    # It imports the kernels by their names as strings.
    kernels = (ROOT / "metal_kernels").glob("*/__init__.py")
    found["metal_kernels/registry.py"] |= {place(kernel) for kernel in kernels}
    return found


def place(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def circle(needs: Mapping[str, Iterable[str]]) -> list[str]:
    """Some files each of which needs the one before it, the first and the last the same."""
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_circles_are_found_wherever_an_import_stands() -> None:
    text = "if TYPE_CHECKING:\n    import a\nimport b\ndef f():\n    if g():\n        import c"
    file = ROOT / "cli" / "app.py"
    assert list(names_in(file, executed(ast.parse(text)))) == ["b", "c"]
    assert circle({"a": ["b", "c"], "b": ["c"]}) == []
    assert circle({"a": ["b"], "b": ["c"], "c": ["b"]}) == ["b", "c", "b"]


def test_no_file_needs_a_file_that_needs_it() -> None:
    assert circle(needs()) == []


def room(name: str) -> str:
    """The room of a dotted name below dsv4_mlx, or the module that is none."""
    return name.split(".")[1]


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_imports_the_rooms_below_it_alone(name: str) -> None:
    inside = [file for file in files("dsv4_mlx") if room(dotted(file)) == name]
    assert inside
    assert [
        f"{place(file)} imports {other}"
        for file in inside
        for other in names_in(file, executed(parsed(file)))
        if other.startswith("dsv4_mlx.")
        and room(other) not in {name, "errors", "__version__", *ROOMS[name]}
    ] == []


def test_every_file_has_a_room_and_rooms_have_an_order() -> None:
    assert {room(dotted(file)) for file in files("dsv4_mlx")} == {*ROOMS, *DOORS}
    assert circle(ROOMS) == []


def dotted(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def test_the_terminal_sees_engines_sessions_and_text_only() -> None:
    offenders = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files("cli")
        for name in imports(file)
        if top(name) in {"metal_kernels", "mlx"}
        or (
            name.startswith("dsv4_mlx.")
            and not {room(name), ".".join(name.split(".")[1:3])} & {*CLI_SEES, "__version__"}
        )
    ]
    assert offenders == []


@pytest.mark.parametrize("package", ["cli", "convert", "metal_kernels"])
def test_packages_with_common_names_have_a_docstring_and_nothing_else(package: str) -> None:
    body = parsed(ROOT / package / "__init__.py").body
    assert len(body) == 1 and isinstance(body[0], ast.Expr)
    assert isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str)


def test_http_is_spoken_in_one_room() -> None:
    offenders = [
        f"{place(file)} imports {name}"
        for package in PACKAGES
        for file in files(package)
        if not place(file).startswith("cli/serve/")
        for name in imports(file)
        if top(name) in {"starlette", "uvicorn", "httptools"}
    ]
    assert offenders == []


# Which rooms of the terminal, or files above them, each room needs.
CLI_ROOMS = {
    "kept": set(),
    "show": {"kept"},
    "tools": {"show"},
    "machine": {"kept"},
    "once": {"kept", "show", "tools"},
    "ranks": {"kept", "show", "once", "machine"},
    "talk": {"kept", "show", "tools"},
    "serve": {"kept", "show", "once", "machine", "ranks"},
    "remote": set(),
}


@pytest.mark.parametrize("room", CLI_ROOMS)
def test_rooms_of_the_terminal_need_the_rooms_below_them_alone(room: str) -> None:
    others = {"app", "manual", *CLI_ROOMS} | ({"models"} if room in ("kept", "show") else set())
    offenders = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files(f"cli/{room}")
        for name in names_in(file, executed(ast.parse(file.read_text(encoding="utf-8"))))
        if name.startswith("cli.") and name.split(".")[1] in others - CLI_ROOMS[room] - {room}
    ]
    assert offenders == []
