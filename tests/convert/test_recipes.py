"""Recipes: few bits where they may be few, exact elsewhere, and a folder that the loader reads."""

import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from benchmarks import streamed_table
from benchmarks.recipe_sizes import PAGE, page
from convert.app import main
from convert.card import CARD_FILE
from convert.fit import fitting, longest_context, shipped_plans
from convert.lowbit import pack, quantize
from convert.options import parser
from convert.quantized import unpacked
from convert.recipe import SHIPPED, read_recipe
from convert.report import bytes_per_token, loaded_bytes, memory_needed
from convert.streamed import offers, streamed_lines, streamed_weights
from dsv4_mlx.errors import CheckpointError, UsageError
from dsv4_mlx.files.safetensors_files import read_header
from dsv4_mlx.loading import load
from dsv4_mlx.release.config import FLASH
from dsv4_mlx.release.naming import is_draft, translate
from dsv4_mlx.sizing.machines import GIB
from dsv4_mlx.sizing.recipe_sizes import RECIPES
from dsv4_mlx.sizing.weight_bytes import weight_bytes
from dsv4_mlx.testing.checkpoints import TINY, dequantized_tensors, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import CONVERSION_FILE, open_checkpoint
from dsv4_mlx.weights.planning import plan_parameters
from dsv4_mlx.weights.quantization import WeightStorage
from dsv4_mlx.weights.reading import read_weights

SMALL = TINY.replace(
    num_hidden_layers=2, compress_ratios=(4, 128, 0), num_hash_layers=1, n_routed_experts=4
)
LOW = SHIPPED[1:]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("source"), SMALL)


@pytest.fixture(scope="module")
def converted(source, tmp_path_factory):
    """The folder of a recipe, converted once."""
    made: dict[str, Path] = {}

    def get(recipe: str) -> Path:
        if recipe not in made:
            made[recipe] = tmp_path_factory.mktemp("converted") / recipe
            assert main([str(source), str(made[recipe]), "--recipe", recipe]) == 0
        return made[recipe]

    return get


def values_of(folder: Path) -> dict[str, np.ndarray]:
    """Every matrix of a converted folder as float32, by our name."""
    checkpoint = open_checkpoint(folder)
    plan = plan_parameters(checkpoint)
    weights = dict(read_weights(checkpoint, plan, mx.float32))
    found = {}
    for one in plan.parameters:
        array = weights[one.name]
        if one.packing:
            offsets = weights.get(f"{one.module}.biases")
            array = mx.dequantize(
                array, weights[f"{one.module}.scales"], offsets, dtype=mx.float32, **one.packing
            )
        found[one.name] = np.array(array.astype(mx.float32))
    return found


def released(folder: Path) -> dict[str, np.ndarray]:
    """The same of an official folder, by numpy alone."""
    found: dict[str, dict] = {}
    for name, values in dequantized_tensors(folder).items():
        target = translate(name)
        found.setdefault(target.name, {})[target.expert or 0, target.half] = values
    made = {}
    for name, parts in found.items():
        ordered = [parts[key] for key in sorted(parts)]
        if ".mlp.experts." not in name:
            made[name] = ordered[0]
            continue
        experts = 1 + max(expert for expert, _ in parts)
        made[name] = np.concatenate(ordered).reshape(experts, -1, ordered[0].shape[-1])
    return made


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_words_are_those_of_mlx(bits):
    values = mx.random.normal((8, 256))
    words, scales, offsets = mx.quantize(values, group_size=64, bits=bits)
    codes = mx.round((mx.dequantize(words, scales, offsets, group_size=64, bits=bits)
                      .reshape(8, 4, 64) - offsets[..., None]) / scales[..., None])  # fmt: skip
    assert mx.array_equal(pack(codes.astype(mx.uint32).reshape(8, 256), bits), words).item()


@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_no_group_is_worse_than_mlx_and_all_together_are_better(bits, group_size):
    values = mx.random.normal((64, 512)) ** 3
    options = {"group_size": group_size, "bits": bits}

    def errors(packed):
        difference = values - unpacked(packed, options)
        return (difference * difference).reshape(64, -1, group_size).sum(-1)

    ours = errors(quantize(values, bits, group_size))
    plain = errors(mx.quantize(values.astype(mx.bfloat16), **options))
    assert (ours <= plain * (1 + 1e-4) + 1e-9).all().item()
    assert ours.sum().item() < plain.sum().item()


def test_importance_moves_the_error_to_where_it_matters_less():
    values = mx.random.normal((64, 512))
    importance = mx.where(mx.arange(512) % 4 == 0, 100.0, 1.0)
    errors = []
    for weights in (None, importance):
        packed = quantize(values, 3, 64, None if weights is None else weights[None])
        difference = values - unpacked(packed, {"group_size": 64, "bits": 3})
        errors.append((importance * difference * difference).sum().item())
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize(
    "group", [[0.0] * 64, [2.5] * 64, [-1.0] * 63 + [1.0], [1e-30] * 64, [1e30, -1e30] * 32]
)
def test_odd_groups_stay_finite(group):
    values = mx.array([group])
    for bits in (2, 4, 8):
        options = {"group_size": 64, "bits": bits}
        found = unpacked(quantize(values, bits, 64), options)
        plain = unpacked(mx.quantize(values.astype(mx.bfloat16), **options), options)
        assert mx.isfinite(found).all().item()
        worst = max(mx.abs(plain - values).max().item(), 0)
        assert mx.abs(found - values).max().item() <= worst * 1.01 + 2**-8 * abs(group[0])


@pytest.mark.parametrize("recipe", LOW)
def test_what_a_recipe_leaves_alone_is_exact_and_the_rest_as_near_as_it_says(
    recipe, source, converted
):
    right, made = released(source), values_of(converted(recipe))
    errors = json.loads((converted(recipe) / CONVERSION_FILE).read_text())["weight_error"]
    assert errors
    for name, values in right.items():
        module = name.rpartition(".")[0]
        if module not in errors or not name.endswith(".weight"):
            assert np.array_equal(made[name], values.astype(np.float32)), name
            continue
        difference = np.linalg.norm(made[name] - values) / np.linalg.norm(values)
        assert difference == pytest.approx(errors[module], rel=1e-3), name


@pytest.mark.parametrize("recipe", LOW)
def test_the_loader_reads_each_layer_in_its_own_mode(recipe, converted):
    model, _ = load(converted(recipe))
    config = json.loads((converted(recipe) / "config.json").read_text())["quantization"]
    modules = dict(model.named_modules())
    affine = [name for name, one in config.items() if isinstance(one, dict)]
    assert any(config[name]["mode"] == "affine" for name in affine)
    for name in affine:
        assert vars(modules[name].packing) == config[name], name
    logits = model(mx.array([[5, 6, 7, 300, 2]]))
    assert mx.isfinite(logits).all().item()


@pytest.mark.parametrize("recipe", LOW)
def test_converted_folders_verify(recipe, source, converted, capsys):
    arguments = ["verify", str(converted(recipe)), "--against", str(source)]
    assert main([*arguments, "--level", "numeric"]) == 0
    assert "numeric: quantized weights are within" in capsys.readouterr().err


def test_the_card_tells_the_files_sizes(converted):
    folder = converted("q2")
    text = (folder / CARD_FILE).read_text()
    shards = list(folder.glob("*.safetensors"))
    size = sum(path.stat().st_size for path in shards)
    assert f"Weights: {size} bytes in {len(shards)} files." in text
    summary = json.loads((folder / CONVERSION_FILE).read_text())
    worst = max(error for name, error in summary["weight_error"].items() if ".mlp.experts." in name)
    assert f"{worst:.4f}" in text


def test_fewer_bits_are_further_from_the_source(converted):
    worst = [
        max(json.loads((converted(name) / CONVERSION_FILE).read_text())["weight_error"].values())
        for name in LOW
    ]
    assert worst == sorted(worst) and worst[0] < 0.01 < worst[-1]


def test_a_base_checkpoint_can_be_quantized(tmp_path):
    source = write_tiny_checkpoint(tmp_path / "source", SMALL, base=True, tokenizer=False)
    assert main([str(source), str(tmp_path / "out"), "--recipe", "q3"]) == 0
    arguments = ["verify", str(tmp_path / "out"), "--against", str(source), "--level", "numeric"]
    assert main(arguments) == 0


def test_sources_stacked_by_transformers_give_the_same_matrices(source, converted, tmp_path):
    other = write_tiny_checkpoint(tmp_path / "source", SMALL, transformers_names=True)
    assert main([str(other), str(tmp_path / "out"), "--recipe", "q2"]) == 0
    ours, theirs = values_of(converted("q2")), values_of(tmp_path / "out")
    assert theirs.keys() < ours.keys()  # transformers leaves the draft block out
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


RECIPE = '[[matrices]]\nmatch = "{match}"\nbits = {bits}\ngroup_size = {group}\n'


def test_a_recipe_of_ones_own(source, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE.format(match="model.layers.1.mlp.experts.down_proj", bits=5, group=32))
    assert main([str(source), str(tmp_path / "out"), "--recipe", str(path)]) == 0
    plan = plan_parameters(open_checkpoint(tmp_path / "out"))
    affine = [one for one in plan.parameters if one.storage is WeightStorage.AFFINE]
    assert [one.module for one in affine] == ["model.layers.1.mlp.experts.down_proj"]
    assert main(["verify", str(tmp_path / "out"), "--against", str(source)]) == 0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (RECIPE.format(match="*.mlp.gate", bits=4, group=64), "routers, compressors, norms"),
        (RECIPE.format(match="*.compressor.kv_proj", bits=4, group=64), "stay as released"),
        (RECIPE.format(match="*.norm", bits=8, group=64), "stay as released"),
        (RECIPE.format(match="lm_head", bits=1, group=64), "bits = 1, expected one of"),
        (RECIPE.format(match="lm_head", bits=4, group=16), "group_size = 16, expected one of"),
        (RECIPE.format(match="lm_head", bits="true", group=64), "bits = True, expected"),
        ("[[matrices]]\nmatch = 3\nbits = 4\ngroup_size = 64\n", "matches 3, expected"),
        ("[[matrices]]\nbits = 4\n", "a rule that is not made of"),
        ("matrices = 3\n", "expected `description`"),
        ("speed = 3\nmatrices = []\n", "holds ['speed'], expected"),
        ("nonsense", "is not valid TOML"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(source, tmp_path, text, sentence, capsys):
    (tmp_path / "mine.toml").write_text(text)
    arguments = [str(source), str(tmp_path / "out"), "--recipe", str(tmp_path / "mine.toml")]
    assert main(arguments) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_wildcards_pass_the_protected_by():
    recipe = read_recipe("q4")
    for name in ("model.layers.2.self_attn.compressor.indexer.q_b_proj", "model.layers.2.mlp.gate"):
        one = type("P", (), {"module": name, "field": "weight", "storage": WeightStorage.MXFP8})
        assert recipe.packing(one) is None


def test_offsets_without_a_packing_are_refused(converted, tmp_path):
    folder = converted("q8")
    config = json.loads((folder / "config.json").read_text())
    del config["quantization"]["lm_head"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    for path in folder.iterdir():
        if path.name != "config.json":
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(CheckpointError, match="lm_head"):
        plan_parameters(open_checkpoint(tmp_path))


@pytest.fixture(scope="module")
def flash(flash_headers):
    """Plans for the complete V4-Flash, from headers."""
    source = open_checkpoint(flash_headers)
    return shipped_plans(source, plan_parameters(source))


def test_fit_takes_the_most_exact_recipe(flash):
    chosen = {memory: fitting(flash, memory).plan for memory in ("128GB", "192GB", "256GB")}
    assert {memory: plan.recipe.name for memory, plan in chosen.items()} == {
        "128GB": "q2", "192GB": "q3", "256GB": "native"
    }  # fmt: skip
    for memory, plan in chosen.items():
        limit = int(memory.removesuffix("GB")) * GIB * 3 // 4
        context = longest_context(plan, limit)
        assert memory_needed(plan, context) <= limit
        most = FLASH.max_position_embeddings
        assert context == most or memory_needed(plan, context + 1024) > limit
    assert bytes_per_token(chosen["128GB"]) < bytes_per_token(chosen["256GB"])


@pytest.mark.slow
def test_the_known_sizes_are_current():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: make pages"


def test_the_known_sizes_are_those_of_the_recipes(flash):
    assert RECIPES["V4-Flash"] == {plan.recipe.name: loaded_bytes(plan) for plan in flash}


@pytest.mark.slow
def test_the_known_sizes_of_pro_are_those_of_the_recipes(pro_headers):
    source = open_checkpoint(pro_headers)
    plans = shipped_plans(source, plan_parameters(source))
    assert RECIPES["V4-Pro"] == {plan.recipe.name: loaded_bytes(plan) for plan in plans}


@pytest.mark.parametrize("recipe", LOW)
def test_headers_tell_what_loading_takes(recipe, converted):
    model, _ = load(converted(recipe), dtype=mx.bfloat16)
    loaded = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    found = weight_bytes(open_checkpoint(converted(recipe)), dense=2)
    assert found == pytest.approx(loaded, rel=2e-3)


def test_fit_streams_the_smallest_recipe_where_none_fits(flash):
    for memory in ("36GB", "48GB", "64GB", "96GB"):
        found = fitting(flash, memory)
        assert (found.plan.recipe.name, found.is_streamed) == ("q2", True)
        assert {one.recipe for one in found.offers} <= {"native", "q3", "q2"}
        assert {one.mac.memory_gib for one in found.offers} == {int(memory.removesuffix("GB"))}
        said = [sentence for sentence, _ in found.offer_sentences()]
        assert "recipe q2, streamed" in said[0] and "tokens/s expected" in said[0]
        assert all("first answer after" in one and "GB/s" in one for one in said)


def test_fit_offers_the_release_itself_streamed_beside_a_recipe_that_fits(flash):
    found = fitting(flash, "128GB")
    assert (found.plan.recipe.name, found.is_streamed) == ("q2", False)
    said = [sentence for sentence, offer in found.offer_sentences() if offer.recipe == "native"]
    assert len(said) == 2 and "also possible, with --recipe native: M4 Max 128 GB" in said[0]
    assert not any(one.recipe == "q2" for one in found.offers)
    assert fitting(flash, "256GB").offers == ()


@pytest.mark.parametrize("recipe", ["native", "q3", "q2"])
def test_offered_pools_fit_into_the_macs_memory_and_a_slot_more_does_not(flash, recipe):
    plan = next(one for one in flash if one.recipe.name == recipe)
    weights, found = streamed_weights(plan), list(offers(plan))
    assert weights.resident + 256 * weights.slot_bytes == pytest.approx(
        loaded_bytes(plan) - sum(job.loaded_bytes for job in plan.jobs if is_draft(job.module))
    )
    assert found
    for one in found:
        limit, slots = one.mac.default_bytes, one.expected.slots
        assert weights.needed(slots * weights.slot_bytes, 8_192) <= limit
        assert weights.needed((slots + 1) * weights.slot_bytes, 8_192) > limit


def test_native_experts_streamed_have_the_releases_bytes(flash):
    weights = streamed_weights(flash[0])
    assert weights.expert_bytes == 13_369_344
    assert weights.slot_bytes == weights.file_bytes == 43 * 13_369_344


def test_the_card_says_what_to_expect_streamed_and_that_it_is_not_measured(flash):
    page = "\n".join(streamed_lines(flash[0]))
    assert "nobody has measured them" in page
    assert "| M4 Max 128 GB |" in page and "| 6.5 GB/s |" in page


@pytest.mark.slow
def test_the_page_for_small_macs_has_the_current_table(flash):
    text = streamed_table.PAGE.read_text(encoding="utf-8")
    assert text == streamed_table.page(flash), "run: make pages"


def test_fit_says_when_nothing_fits(flash):
    few = [replace(one, source=replace(one.source, config=FLASH.replace(
        n_routed_experts=17))) for one in flash[-1:]]  # fmt: skip
    with pytest.raises(UsageError, match="No recipe fits a Mac with 36GB: the smallest, q2, needs"):
        fitting(few, "36GB")


def test_fit_and_recipe_exclude_each_other(source, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(source), str(tmp_path / "out"), "--fit", "64GB", "--recipe", "q4"])


def test_fit_converts_with_what_it_chose(source, tmp_path, capsys):
    assert main([str(source), str(tmp_path / "out"), "--fit", "64GB"]) == 0
    assert "64GB: recipe native" in capsys.readouterr().err
    headers = [read_header(path) for path in (tmp_path / "out").glob("model-*.safetensors")]
    assert any("lm_head.weight" in header for header in headers)


@pytest.mark.parametrize("memory", ["64GB", "64 GB", "64gb", " 64  Gb "])
def test_a_memory_is_written_with_or_without_a_space(memory: str) -> None:
    assert parser().parse_args(["src", "dst", "--fit", memory]).fit == "64GB"


def test_another_memory_is_refused_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["src", "dst", "--fit", "65 GB"])
    assert "invalid choice: '65 GB'" in capsys.readouterr().err
