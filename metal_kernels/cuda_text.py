"""Metal helper functions for CUDA, where a function that a kernel calls carries `__device__`."""

import re

_TOKEN = re.compile(r"//[^\n]*|/\*.*?\*/|^[ \t]*#(?:[^\n\\]|\\.)*|[{};]", re.DOTALL | re.MULTILINE)
_TEMPLATE = re.compile(r"\s*template\s*<[^{};]*?>(?=\s*[\w:]+[\s<*&])")
_FUNCTION = re.compile(r"[^(=\[]*(\w\s*|\boperator[^\w\s]+)\(")
_NOT_A_FUNCTION = re.compile(
    r"\s*(struct|class|union|enum|namespace|static_assert|using|typedef)\b"
)


def device_functions(text: str) -> str:
    """`text` with `__device__` before every function outside a function body; lines stay lines."""
    places: list[int] = []
    scopes: list[bool] = []  # of every open brace: whether functions may be declared inside
    start = 0  # of the declaration being read
    for token in _TOKEN.finditer(text):
        mark = token.group()
        declares = all(scopes)
        if mark not in "{};":
            if not text[start : token.start()].strip():
                start = token.end()  # a comment or a directive between declarations
            continue
        declaration = text[start : token.start()]
        opens_function = declares and _is_function(declaration)
        if mark != "}" and opens_function:
            places.append(start + _after_template(declaration))
        if mark == "{":
            scopes.append(not opens_function and "=" not in _without_template(declaration))
        elif mark == "}":
            scopes.pop()
        start = token.end()
    for place in reversed(places):
        text = f"{text[:place]}__device__ {text[place:]}"
    return text


def _is_function(declaration: str) -> bool:
    rest = _without_template(declaration)
    return bool(_FUNCTION.match(rest)) and not _NOT_A_FUNCTION.match(rest)


def _without_template(declaration: str) -> str:
    found = _TEMPLATE.match(declaration)
    return declaration[found.end() :] if found else declaration


def _after_template(declaration: str) -> int:
    found = _TEMPLATE.match(declaration)
    begin = found.end() if found else 0
    return begin + len(declaration[begin:]) - len(declaration[begin:].lstrip())
