"""Events as JSON data: what is there only where experts lie in files."""

import pytest

from cli.once.answer_output import as_record
from dsv4_mlx.chat.events import Done, Progress, Usage
from dsv4_mlx.engine.expert_use import ExpertUse


@pytest.mark.parametrize(
    ("layers", "fields"), [(None, {}), ((3, 43), {"layers": (3, 43)})], ids=["chunks", "layers"]
)
def test_progress_has_layers_where_tokens_pass_them_together(
    layers: tuple[int, int] | None, fields: dict[str, tuple[int, int]]
) -> None:
    expected = {"type": "progress", "done": 0, "total": 9, **fields}
    assert as_record(Progress(0, 9, layers)) == expected


def test_done_has_what_was_found_of_experts_in_files() -> None:
    done = Done("stop", Usage(1, 0, 1))
    assert "experts" not in as_record(done)
    use = ExpertUse(27, hits=5, misses=3, bytes_read=300, waited_s=0.5)
    record = as_record(Done("stop", Usage(1, 0, 1), experts=use))
    assert record["experts"] == {"slots": 27, "hits": 5, "misses": 3, "bytes_read": 300}
