"""Importance measured layer by layer is the whole model's, and conversions take it as it is."""

import gc
import json
import weakref
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from convert import calibrate as calibration
from convert.app import main
from convert.calibrate import calibrate
from convert.card import CARD_FILE
from convert.importance import MIN_TOKENS, open_importance, rows_of, weights
from convert.journal import JOURNAL_FILE
from convert.observed import Sums, observe
from convert.progress import ProgressDisplay
from convert.quantized import in_order, unpacked
from convert.recipe import quantizable
from convert.texts import read_text
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.files.safetensors_files import read_header
from dsv4_mlx.loading import load
from dsv4_mlx.model.layers import ExpertsLinear
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import CONVERSION_FILE, open_checkpoint
from dsv4_mlx.weights.planning import plan_parameters

SMALL = TINY.replace(
    num_hidden_layers=3, compress_ratios=(0, 4, 128, 0), num_hash_layers=1, n_routed_experts=4
)
TEXT = "Layer after layer, and never the whole model at once. " * 24


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    """A source, two texts, and what calibration measured on them."""
    folder = tmp_path_factory.mktemp("lab")
    write_tiny_checkpoint(folder / "source", SMALL)
    (folder / "long.txt").write_text(TEXT)
    talk = {
        "messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    }
    (folder / "talk.jsonl").write_text(json.dumps(talk) + "\n\n" + json.dumps(talk) + "\n")
    texts = [str(folder / "long.txt"), str(folder / "talk.jsonl")]
    measured = str(folder / "importance.safetensors")
    assert main(["calibrate", str(folder / "source"), *texts, "-o", measured]) == 0
    return folder


def measured(path: Path) -> dict[str, np.ndarray]:
    return {name: entry.read() for name, entry in read_header(path).items()}


@pytest.fixture(scope="module")
def whole(lab):
    """The same sums with the whole model in memory, and the streams after the last layer.

    In the same chunks: another number of rows is another order of sums, and where bfloat16 or FP4
    rounds the other way a token takes another expert."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Model, "join", lambda self: None)  # each matrix multiplied by itself
        model, tokenizer = load(lab / "source")
    plan = plan_parameters(open_checkpoint(lab / "source"))
    sums = {}
    for parameter in filter(quantizable, plan.parameters):
        path = parameter.module.split(".")
        if path[0] != "model":
            continue
        owner = model
        for name in path[:-1]:
            owner = owner[int(name)] if name.isdigit() else getattr(owner, name)
        blocks = parameter.shape[0] if len(parameter.shape) == 3 else 1
        if path[-1] == "o_a_proj":
            blocks = SMALL.o_groups
        sums[parameter.module] = Sums(blocks, parameter.shape[-1])
        setattr(owner, path[-1], observe(getattr(owner, path[-1]), sums[parameter.module]))
    heads = []
    for name in ("long.txt", "talk.jsonl"):
        for timeline in read_text(lab / name, tokenizer).timelines:
            cache, size = model.make_cache(), calibration._CHUNK_TOKENS
            for start in range(0, len(timeline), size):
                streams = model.streams(mx.array([timeline[start : start + size]]), cache)
                heads.append(model.model.hc_head(streams, model.model.norm.weight)[0])
    return sums, mx.concatenate(heads)


def test_it_measures_what_the_whole_model_sees(lab, whole):
    found, (sums, heads) = measured(lab / "importance.safetensors"), whole
    assert len(sums) == 3 * 10
    for module, right in sums.items():
        assert np.array_equal(found[f"{module}.tokens"], right.measured().rows), module
        close = np.allclose(found[f"{module}.mean_square"], right.measured().mean_square(), 1e-6)
        assert close, module
    # float32 sums of 815 squares: each addition is off by at most half of 2**-23.
    head = np.array((heads * heads).mean(0))
    assert np.allclose(found["lm_head.mean_square"][0], head, len(heads) * 2.0**-24)


def test_every_routed_row_is_counted_once(lab):
    found = measured(lab / "importance.safetensors")
    tokens = found["model.layers.1.self_attn.q_a_proj.tokens"][0]
    shared = found["model.layers.1.mlp.shared_experts.gate_proj.mean_square"][0]
    rows = found["model.layers.1.mlp.experts.gate_up_proj.tokens"]
    routed = found["model.layers.1.mlp.experts.gate_up_proj.mean_square"]
    assert rows.sum() == SMALL.num_experts_per_tok * tokens
    total = (routed * rows[:, None]).sum(0)
    assert np.allclose(total, SMALL.num_experts_per_tok * tokens * shared, rtol=1e-4)


def test_the_draft_block_sees_the_next_token(lab):
    found = measured(lab / "importance.safetensors")
    timelines = [
        one
        for name in ("long.txt", "talk.jsonl")
        for one in read_text(lab / name, Tokenizer(lab / "source")).timelines
    ]
    pairs = sum(len(one) - 1 for one in timelines)
    assert found["mtp.0.e_proj.tokens"][0] == pairs
    assert found["mtp.0.h_proj.tokens"][0] == pairs * SMALL.hc_mult


def test_one_layer_is_in_memory_at_a_time(lab, monkeypatch):
    """Each layer is read once, in order, and the one before it is gone by then."""
    from convert import calibrate as module

    asked, layers, alive = [], [], []
    read, run = module.read_weights, module._Walk._layer

    def remembering(checkpoint, plan, dtype):
        names = {one.module.split(".")[2] for one in plan.parameters if ".layers." in one.module}
        asked.append(sorted(names))
        alive.append(sum(one() is not None for one in layers))
        return read(checkpoint, plan, dtype)

    def counting(walk, layer, *place):
        layers.append(weakref.ref(layer.self_attn))  # which refers to itself
        run(walk, layer, *place)

    monkeypatch.setattr(module, "read_weights", remembering)
    monkeypatch.setattr(module._Walk, "_layer", counting)
    gc.disable()  # what Python collects by chance would hide a layer that stays
    try:
        calibrate(
            lab / "source", [lab / "talk.jsonl"], lab / "other.safetensors", ProgressDisplay()
        )
    finally:
        gc.enable()
    assert [names for names in asked if names] == [["0"], ["1"], ["2"]]
    assert len(layers) == 3 and max(alive) == 1


@pytest.mark.parametrize("kind", ["gathered", "chosen", "in_order", "sorted"])
def test_experts_count_rows_in_every_kind_of_product(kind):
    layer, sums = ExpertsLinear(3, 4, 5), Sums(3, 4)
    layer.weight = mx.random.normal((3, 5, 4))
    x, experts = mx.random.normal((4, 4)), mx.array([0, 0, 2, 2], mx.uint32)
    watched = observe(layer, sums)
    calls = {
        "gathered": lambda one: one.gathered(x, mx.arange(4), experts),
        "chosen": lambda one: one.chosen(x[:, None], experts[:, None])[:, 0],
        "in_order": lambda one: one.in_order(x, experts),
        "sorted": lambda one: one.sorted(x, [(0, 0, 2), (2, 2, 4)]),
    }
    assert mx.allclose(calls[kind](watched), calls[kind](layer)).item()
    squares = np.array(x) ** 2
    found = sums.measured()
    assert found.rows.tolist() == [2, 0, 2]
    means = [squares[:2].mean(0), np.zeros(4), squares[2:].mean(0)]
    assert np.allclose(found.mean_square(), means)


def test_transformers_naming_gives_the_same(lab, tmp_path):
    write_tiny_checkpoint(tmp_path / "source", SMALL, transformers_names=True)
    calibrate(
        tmp_path / "source",
        [lab / "long.txt", lab / "talk.jsonl"],
        tmp_path / "i.safetensors",
        ProgressDisplay(),
    )
    ours, theirs = measured(lab / "importance.safetensors"), measured(tmp_path / "i.safetensors")
    assert theirs.keys() == {name for name in ours if not name.startswith("mtp.")}
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    arguments = ["--recipe", "q2", "--importance", str(tmp_path / "i.safetensors")]
    assert main([str(tmp_path / "source"), str(tmp_path / "out"), *arguments]) == 0


def test_experts_that_saw_little_have_their_layers_mean():
    mean_square = np.array([[1, 3], [3, 1], [100, 0]], np.float32)
    found = weights(mean_square, np.array([MIN_TOKENS, MIN_TOKENS, 0]))
    assert np.allclose(found[0], [0.55, 1.45]) and np.allclose(found[1], [1.45, 0.55])
    assert np.allclose(found[2], [1, 1])


def test_silent_channels_still_count_a_little():
    found = weights(np.array([[0, 2], [0, 0]], np.float32), np.array([100, 100]))
    assert found.min() > 0 and np.isfinite(found).all()


def convert(lab: Path, out: Path, *options: str) -> int:
    return main([str(lab / "source"), str(out), "--recipe", "q2", *options])


@pytest.fixture(scope="module")
def converted(lab, tmp_path_factory) -> dict[str, Path]:
    """The same recipe with and without importance."""
    folder = tmp_path_factory.mktemp("converted")
    assert convert(lab, folder / "plain") == 0
    importance = ["--importance", str(lab / "importance.safetensors")]
    assert convert(lab, folder / "weighted", *importance) == 0
    return {name: folder / name for name in ("plain", "weighted")}


def product_error(lab: Path, folder: Path) -> dict[str, float]:
    """Squared errors weighted by importance, by matrix."""
    source = open_checkpoint(lab / "source")
    plan = plan_parameters(source)
    importance = open_importance(lab / "importance.safetensors", source, plan)
    quantization = json.loads((folder / "config.json").read_text())["quantization"]
    tensors = open_checkpoint(folder).tensors
    found = {}
    for parameter in filter(quantizable, plan.parameters):
        packing = quantization.get(parameter.module, {})
        if packing.get("mode") != "affine":
            continue
        parts = [
            mx.array(tensors[f"{parameter.module}.{f}"].read())
            for f in ("weight", "scales", "biases")
        ]
        words, scales, biases = parts
        values = unpacked((words, scales.view(mx.bfloat16), biases.view(mx.bfloat16)), packing)
        flat = np.array(values.reshape(-1, values.shape[-1]))
        error = 0.0
        for row, exact in in_order(parameter):
            known = rows_of(importance.of(parameter), parameter, row, len(exact))
            error += (known * (np.array(exact) - flat[row : row + len(exact)]) ** 2).sum()
        found[parameter.module] = float(error)
    return found


def test_weighted_errors_become_smaller(lab, converted):
    plain, weighted = (product_error(lab, converted[name]) for name in ("plain", "weighted"))
    assert len(plain) > 20
    shares = {name: weighted[name] / plain[name] for name in plain}
    assert max(shares.values()) < 1.01  # of several starts one of two searches is luckier
    assert sum(share < 1 for share in shares.values()) > 0.9 * len(shares)
    assert all(share < 0.9 for name, share in shares.items() if name.endswith("experts.down_proj"))


def test_the_folder_says_what_it_was_weighted_with(lab, converted, capsys):
    facts = json.loads((converted["weighted"] / CONVERSION_FILE).read_text())["importance"]
    card = (converted["weighted"] / CARD_FILE).read_text()
    assert facts["experts"] == 4 * 4 and f"measured on {facts['tokens']} tokens" in card
    assert facts["sha256"][:16] in card
    assert json.loads((converted["plain"] / CONVERSION_FILE).read_text())["importance"] is None
    arguments = ["--against", str(lab / "source"), "--level", "numeric"]
    assert main(["verify", str(converted["weighted"]), *arguments]) == 0


def test_a_dry_run_tells_of_the_importance(lab, tmp_path, capsys):
    importance = ["--importance", str(lab / "importance.safetensors"), "--dry-run"]
    assert convert(lab, tmp_path / "out", *importance) == 0
    assert "errors weighted by importance measured on 815 tokens" in capsys.readouterr().out
    assert convert(lab, tmp_path / "out", *importance, "--json") == 0
    assert json.loads(capsys.readouterr().out)["importance"]["tokens"] == 815


def test_native_has_nothing_to_weigh(lab, tmp_path, capsys):
    importance = ["--importance", str(lab / "importance.safetensors")]
    assert main([str(lab / "source"), str(tmp_path / "out"), *importance]) == 2
    assert "native quantizes nothing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_it_resumes_with_the_same_file_alone(lab, tmp_path, monkeypatch, capsys):
    """Stopped before its first shard, continued with another file, with none, with the same."""
    from convert.shards import ShardWriter

    def stop(*_, **__):
        raise KeyboardInterrupt

    calibrate(
        lab / "source", [lab / "talk.jsonl"], tmp_path / "other.safetensors", ProgressDisplay()
    )
    right = ["--importance", str(lab / "importance.safetensors")]
    with monkeypatch.context() as patched:
        patched.setattr(ShardWriter, "write", stop)
        assert convert(lab, tmp_path / "out", *right) == 130
    assert (tmp_path / "out" / JOURNAL_FILE).exists()
    for options in ([], ["--importance", str(tmp_path / "other.safetensors")]):
        capsys.readouterr()
        assert convert(lab, tmp_path / "out", "--resume", *options) == 2
        assert (
            "another recipe, importance file, choice of drafts, layers or program version"
            in capsys.readouterr().err
        )
    assert convert(lab, tmp_path / "out", "--resume", *right) == 0


def damaged(path: Path, folder: Path, change) -> Path:
    content = bytearray(path.read_bytes())
    (folder / "damaged.safetensors").write_bytes(change(content))
    return folder / "damaged.safetensors"


def flipped(content: bytearray) -> bytearray:
    content[-9] ^= 1
    return content


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda content: content[:-8], "is damaged or cut short"),
        (lambda content: content[:3], "is no importance file of version 1"),
        (lambda content: b"", "is no importance file of version 1"),
        (flipped, "does not hold what was measured"),
        (lambda content: content.replace(b'"version":"1"', b'"version":"2"'), "of version 1"),
        (lambda content: content.replace(b'"texts":', b'"tests":'), "it lacks texts"),
        (lambda content: content.replace(b"lm_head.tokens", b"lm_tail.tokens"), "lm_head.tokens"),
    ],
    ids=["cut", "three bytes", "empty", "flipped bit", "other version", "no texts", "other name"],
)
def test_a_damaged_file_is_one_sentence(lab, tmp_path, change, sentence, capsys):
    wrong = damaged(lab / "importance.safetensors", tmp_path, change)
    assert convert(lab, tmp_path / "out", "--importance", str(wrong)) in (1, 2)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and sentence in error
    assert not (tmp_path / "out").exists()


def test_another_file_or_another_checkpoints_is_refused(lab, tmp_path, capsys):
    shard = next((lab / "source").glob("*.safetensors"))
    absent = tmp_path / "absent.safetensors"
    for path, sentence in ((shard, "no importance file"), (absent, "is no file; make one")):
        assert convert(lab, tmp_path / "out", "--importance", str(path)) == 2
        assert sentence in capsys.readouterr().err
    write_tiny_checkpoint(tmp_path / "source", SMALL, seed=7)
    arguments = [str(tmp_path / "source"), str(tmp_path / "out"), "--recipe", "q2"]
    assert main([*arguments, "--importance", str(lab / "importance.safetensors")]) == 2
    assert "was measured on other weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("absent.txt", None, "cannot be read"),
        ("bytes.txt", b"\xff\xfe\x00", "is no UTF-8 text"),
        ("short.txt", b"", "than expected, 2 or more"),
        ("talk.jsonl", b"{}\n", "Line 1 of"),
        ("talk.jsonl", b"[1]\n", "is no conversation"),
        ("talk.jsonl", b'{"messages": [{"role": "nobody"}]}', "is no conversation"),
        ("talk.jsonl", b"nonsense", "is no conversation"),
    ],
)
def test_wrong_texts_are_one_sentence(lab, tmp_path, name, content, sentence, capsys):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    arguments = [str(lab / "source"), str(tmp_path / name), "-o", str(tmp_path / "i.safetensors")]
    assert main(["calibrate", *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "i.safetensors").exists()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_a_newline_ends_a_conversation(lab, tmp_path, end):
    said = "one\u2028two\u2029three\u0085four"
    line = json.dumps({"messages": [{"role": "user", "content": said}]}, ensure_ascii=False)
    path = tmp_path / "talk.jsonl"
    path.write_bytes(f"{line}{end}{end}{line}{end}".encode())
    [first, second] = read_text(path, Tokenizer(lab / "source")).timelines
    assert first == second


@pytest.mark.parametrize("output", ["importance", "absent/i.safetensors"])
def test_a_wrong_output_is_refused_before_work(lab, tmp_path, output, capsys):
    arguments = [str(lab / "source"), str(lab / "long.txt"), "-o", str(tmp_path / output)]
    assert main(["calibrate", *arguments]) == 2
    assert "error: " in capsys.readouterr().err


def test_a_text_beyond_the_context_is_refused(lab, tmp_path, capsys):
    short = SMALL.replace(max_position_embeddings=256)
    write_tiny_checkpoint(tmp_path / "source", short)
    arguments = [
        str(tmp_path / "source"),
        str(lab / "long.txt"),
        "-o",
        str(tmp_path / "i.safetensors"),
    ]
    assert main(["calibrate", *arguments]) == 2
    assert "expected at most the model's context of 256" in capsys.readouterr().err


def test_too_little_room_for_the_streams_is_refused(lab, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("convert.calibrate.free_bytes", lambda path: 1000)
    arguments = [str(lab / "source"), str(lab / "long.txt"), "-o", str(tmp_path / "i.safetensors")]
    assert main(["calibrate", *arguments]) == 2
    assert "tokens need" in capsys.readouterr().err and not any(tmp_path.iterdir())


def test_events_end_with_what_was_counted(lab, tmp_path, capsys):
    output = str(tmp_path / "i.safetensors")
    arguments = [str(lab / "source"), str(lab / "talk.jsonl"), "-o", output, "--json"]
    assert main(["calibrate", *arguments]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["event"] for one in events].count("layer") == 3
    assert events[-1]["event"] == "done" and events[-1]["experts_by_mean"] > 0
    assert list(tmp_path.iterdir()) == [tmp_path / "i.safetensors"]
