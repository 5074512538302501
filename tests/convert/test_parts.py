"""Parts of a conversion: two make the whole, and each is whole for its layers."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from convert.app import main
from convert.inspect import describe, page
from convert.plan import plan_conversion
from convert.progress import ProgressDisplay
from convert.writer import write
from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.loading import load
from dsv4_mlx.release.layer_ranges import LayerRange
from dsv4_mlx.sizing.costs import Costs
from dsv4_mlx.sizing.weight_bytes import weight_bytes
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import CONVERSION_FILE, INDEX_FILE, open_checkpoint
from dsv4_mlx.weights.fingerprint import earlier_fingerprints, fingerprint, timeline_fingerprint
from dsv4_mlx.weights.planning import plan_parameters
from tests.convert.small import contents

SMALL = TINY.replace(
    num_hidden_layers=3, compress_ratios=(4, 128, 0, 0), num_hash_layers=1, n_routed_experts=2
)
CASES = [("native", {}), ("q2", {}), ("native", {"dspark": True})]


@pytest.fixture(scope="module", params=CASES, ids=["native", "q2", "dspark"])
def made(request: pytest.FixtureRequest, tmp_path_factory) -> dict[str, Path]:
    """A source, its conversion, and the same in two parts with a border after layer 1."""
    recipe, variant = request.param
    root = tmp_path_factory.mktemp("parts")
    source = write_tiny_checkpoint(root / "source", SMALL, shards=4, **variant)
    for name, layers in (("whole", []), ("first", [":2"]), ("last", ["2:"])):
        chosen = ["--layers", *layers] if layers else []
        words = [str(source), str(root / name), "--recipe", recipe, *chosen]
        assert main(words) == 0
    return {name: root / name for name in ("source", "whole", "first", "last")}


def test_files_of_two_parts_are_those_of_the_whole(made) -> None:
    whole, first, last = (contents(made[name]) for name in ("whole", "first", "last"))
    shards = {name for name in whole if name.endswith(".safetensors")}
    own = [{name for name in part if name.endswith(".safetensors")} for part in (first, last)]
    assert not own[0] & own[1] and own[0] | own[1] == shards
    assert all((first | last)[name] == whole[name] for name in shards)
    for name in ("config.json", INDEX_FILE, "tokenizer.json"):
        assert first[name] == last[name] == whole[name]


def test_parts_are_joined_to_the_same_folder_byte_for_byte(made, tmp_path, capsys) -> None:
    assert main(["join", str(made["last"]), str(made["first"]), str(tmp_path / "all")]) == 0
    found, whole = contents(tmp_path / "all"), contents(made["whole"])
    assert found.keys() == whole.keys()
    assert [name for name in whole if found[name] != whole[name]] == []
    assert main(["verify", str(tmp_path / "all"), "--against", str(made["source"])]) == 0


def test_a_part_has_the_fingerprints_of_the_whole_model(made) -> None:
    def names(folder: Path) -> tuple[object, ...]:
        checkpoint = open_checkpoint(folder)
        plan = plan_parameters(checkpoint)
        return (
            checkpoint.config, fingerprint(checkpoint, plan),
            timeline_fingerprint(checkpoint, plan), earlier_fingerprints(checkpoint, plan),
        )  # fmt: skip

    assert names(made["first"]) == names(made["last"]) == names(made["whole"])


def test_a_part_has_the_parameters_and_bytes_of_its_layers(made) -> None:
    whole, *parts = (open_checkpoint(made[name]) for name in ("whole", "first", "last"))
    assert [part.layers for part in parts] == [LayerRange(0, 2, 3), LayerRange(2, 3, 3)]
    plans = [plan_parameters(one) for one in parts]
    names = [one.name for plan in plans for one in (*plan.parameters, *plan.drafts)]
    full = plan_parameters(whole)
    assert sorted(names) == sorted(one.name for one in (*full.parameters, *full.drafts))
    assert sum(map(weight_bytes, parts)) == weight_bytes(whole)
    kept = [Costs(one.config, one.layers).cache_bytes(1_000) for one in parts]
    assert sum(kept) == Costs(whole.config).cache_bytes(1_000) and min(kept) > 0


@pytest.mark.parametrize("part", ["first", "last"])
def test_a_part_verifies_and_its_damage_is_found(made, part, tmp_path, capsys) -> None:
    against = ["--against", str(made["source"])]
    assert main(["verify", str(made[part]), *against, "--level", "numeric"]) == 0
    shutil.copytree(made[part], tmp_path / "part")
    shard = max((tmp_path / "part").glob("model-*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert main(["verify", str(tmp_path / "part")]) == 1
    assert f"in {shard.name} is not what was written" in capsys.readouterr().err
    shard.unlink()
    assert main(["verify", str(tmp_path / "part")]) == 1
    assert "1 of" in (said := capsys.readouterr().err) and shard.name in said


def test_a_part_is_said_to_be_one(made) -> None:
    facts = describe(made["first"])
    assert facts["part"] == "0:2" and describe(made["whole"])["part"] is None
    assert "a part: layers 0:2 of 3" in page(facts)
    assert "A part of the model: layers 0:2 of 3." in (made["first"] / "CARD.md").read_text()
    assert "A part" not in (made["whole"] / "CARD.md").read_text()


def test_a_part_alone_is_not_loaded(made) -> None:
    with pytest.raises(CheckpointError, match="holds layers 0:2 of 3, expected all of them; use"):
        load(made["first"])


def test_a_dry_run_is_about_the_part(made, tmp_path, capsys) -> None:
    words = [str(made["source"]), str(tmp_path / "out"), "--layers", "2:3", "--dry-run"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["layers"] == [2, 3] and found["disk_needed"] == sum(found["shards"].values())
    assert main(words) == 0
    assert "a part: layers 2:3 of 3" in capsys.readouterr().out


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("source"), SMALL, shards=6)


def stopping(after: int) -> Callable[..., None]:
    """Says nothing, and is Ctrl-C once so many shards are written."""

    class Stopped(ProgressDisplay):
        left = after

        def say(self, line: str, event: str = "note", **content: object) -> None:
            self.left -= event == "shard"
            if self.left == 0:
                raise KeyboardInterrupt

    return Stopped


def part_of(source: Path, first: int, stop: int):
    checkpoint = open_checkpoint(source)
    return plan_conversion(checkpoint, layers=LayerRange(first, stop, 3))


def test_a_stopped_part_goes_on_and_ends_with_the_same_bytes(source, tmp_path, capsys) -> None:
    write(part_of(source, 0, 2), tmp_path / "once", ProgressDisplay())
    with pytest.raises(KeyboardInterrupt):
        write(part_of(source, 0, 2), tmp_path / "twice", stopping(1)())
    for layers in ([], ["--layers", "0:1"]):
        assert main([str(source), str(tmp_path / "twice"), "--resume", *layers]) == 2
        assert "begun with another recipe" in capsys.readouterr().err
    assert main([str(source), str(tmp_path / "twice"), "--resume", "--layers", "0:2"]) == 0
    assert contents(tmp_path / "once") == contents(tmp_path / "twice")
    assert main([str(source), str(tmp_path / "twice"), "--resume"]) == 2
    assert "or layers; give another folder" in capsys.readouterr().err


def test_a_source_keeps_what_other_layers_need(source, tmp_path) -> None:
    shutil.copytree(source, tmp_path / "source")
    write(part_of(source, 0, 2), tmp_path / "kept", ProgressDisplay())
    plan = part_of(tmp_path / "source", 0, 2)
    write(plan, tmp_path / "part", ProgressDisplay(), delete_source=True)
    needed = {entry.path.name for shard in plan.all_files for job in shard.jobs
              if not plan.holds(job.module) for entry in job.sources}  # fmt: skip
    left = {path.name for path in (tmp_path / "source").glob("*.safetensors")}
    assert left == needed and left < {path.name for path in source.glob("*.safetensors")}
    differing = {
        name for name, content in contents(tmp_path / "kept").items()
        if contents(tmp_path / "part")[name] != content
    }  # fmt: skip
    assert differing == set()


@pytest.mark.parametrize("text", ["3:3", "0:4", "two", "-1:2"])
def test_wrong_layers_are_one_sentence(source, tmp_path, text, capsys) -> None:
    assert main([str(source), str(tmp_path / "out"), f"--layers={text}"]) == 2
    assert "expected a:b" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_all_layers_are_no_part(source, tmp_path) -> None:
    for name, words in (("whole", []), ("part", ["--layers", ":"])):
        assert main([str(source), str(tmp_path / name), *words]) == 0
    assert contents(tmp_path / "whole") == contents(tmp_path / "part")


def test_parts_that_do_not_make_a_whole_are_refused(source, tmp_path, capsys) -> None:
    write(part_of(source, 0, 1), tmp_path / "a", ProgressDisplay())
    write(part_of(source, 2, 3), tmp_path / "c", ProgressDisplay())
    write(replace(plan_conversion(open_checkpoint(source))), tmp_path / "w", ProgressDisplay())
    for parts, sentence in (
        (("a", "c"), "hold layers 0:1, 2:3, expected each of 3 layers once"),
        (("a", "a"), "hold layers 0:1, 0:1, expected"),
        (("a", "w"), "w holds a whole model, expected a part"),
    ):
        folders = [str(tmp_path / name) for name in parts]
        assert main(["join", *folders, str(tmp_path / "all")]) == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "all").exists()


def test_parts_of_other_recipes_are_refused(source, tmp_path, capsys) -> None:
    for name, layers, recipe in (("a", ":1", "native"), ("b", "1:", "q2")):
        words = [str(source), str(tmp_path / name), "--layers", layers, "--recipe", recipe]
        assert main(words) == 0
    folders = [str(tmp_path / name) for name in "ab"]
    assert main(["join", *folders, str(tmp_path / "all")]) == 2
    assert "differ in recipe; join parts of one model" in capsys.readouterr().err


def test_three_parts_are_joined_too(source, tmp_path) -> None:
    names = []
    for number in range(3):
        names.append(str(tmp_path / f"{number}"))
        write(part_of(source, number, number + 1), Path(names[-1]), ProgressDisplay())
    write(plan_conversion(open_checkpoint(source)), tmp_path / "whole", ProgressDisplay())
    assert main(["join", *names, str(tmp_path / "all")]) == 0
    assert contents(tmp_path / "all") == contents(tmp_path / "whole")


def test_damaged_notes_of_a_part_are_one_sentence(source, tmp_path) -> None:
    write(part_of(source, 0, 1), tmp_path / "part", ProgressDisplay())
    path = tmp_path / "part" / CONVERSION_FILE
    summary = json.loads(path.read_text())
    for damage, sentence in (
        ({"layers": [0, 9]}, r"layers are .*, expected two numbers up to 3"),
        ({"layers": "all"}, r"layers are .*, expected two numbers up to 3"),
        ({"elsewhere": [["a", [1], "dense", "zz"]]}, "samples of other layers cannot be read"),
        ({"elsewhere": None}, "samples of other layers cannot be read"),
    ):
        path.write_text(json.dumps(summary | damage))
        with pytest.raises(CheckpointError, match=sentence):
            fingerprint((one := open_checkpoint(tmp_path / "part")), plan_parameters(one))


def test_conversions_with_the_shards_of_before_still_verify_and_go_on(source, tmp_path) -> None:
    from convert.layout import shards_of

    plan = plan_conversion(open_checkpoint(source))
    jobs = list(plan.all_jobs)
    packed = replace(plan, shards=tuple(shards_of(jobs, 3, 5 << 30, by_layers=False)))
    assert len(packed.shards) < len(plan.shards)
    write(packed, tmp_path / "old", ProgressDisplay())
    assert main(["verify", str(tmp_path / "old"), "--against", str(source)]) == 0
    assert main([str(source), str(tmp_path / "old"), "--resume"]) == 0  # finished already
    with pytest.raises(KeyboardInterrupt):
        write(packed, tmp_path / "stopped", stopping(1)())
    assert main([str(source), str(tmp_path / "stopped"), "--resume"]) == 0
    assert contents(tmp_path / "old") == contents(tmp_path / "stopped")
