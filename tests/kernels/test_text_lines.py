"""What a compiler says of a text names our files and counts their lines."""

import re

import mlx.core as mx
import pytest

from metal_kernels import sources
from tests.metalhost import MetalHostError, metal_kernel

TEXTS = sorted(
    path.stem for path in sources.ROOT.glob("*/*.metal") if path.parent != sources.SHARED
)
DIRECTIVE = re.compile(r'#line (\d+) "([\w.]+)"')


@pytest.mark.parametrize("backend", ["metal", "cuda"])
@pytest.mark.parametrize("name", TEXTS)
def test_every_line_is_where_its_directive_says(backend: str, name: str) -> None:
    """CUDA marks functions, so that there a line only begins as in the file, or is marked."""
    header, body = sources.text(backend, name)
    files = {
        path.name: path.read_text().split("\n")
        for path in sources.ROOT.glob("*/*.*")
        if path.suffix in (".metal", ".cuh")
    }
    place: tuple[str, int] | None = None
    for line in f"{header}\n{body}".split("\n"):
        if directive := DIRECTIVE.fullmatch(line):
            place = directive[2], int(directive[1])
        elif place is not None:
            file, number = place
            if line:
                assert files[file][number - 1].strip() in line
            place = file, number + 1
        else:
            assert line == ""
    own = sources.path(backend, name).name
    assert body.startswith("\n#line ") and f'"{own}"' in body.split("\n")[1]


@pytest.mark.needs("metalhost")
def test_the_runner_counts_lines_without_directives() -> None:
    """Its own messages count in header and body, so directives are no lines there."""
    kernel = metal_kernel(
        name="broken",
        input_names=["x"],
        output_names=["y"],
        header='\n#line 1 "one.metal"\nconstant int one = 1;\n',
        source='\n#line 7 "broken.metal"\nuint at = thread_position_in_grid.x;\ny[at] = nothing;\n',
    )
    with pytest.raises(MetalHostError, match="body:2: ") as error:
        kernel(
            inputs=[mx.zeros(4)],
            output_shapes=[(4,)],
            output_dtypes=[mx.float32],
            grid=(4, 1, 1),
            threadgroup=(4, 1, 1),
        )
    assert error.value.line == 2
