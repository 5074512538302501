"""docs/formats.md says what the code does: every table that can be compared is."""

import json
import re
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from convert.app import main
from convert.deletion import SOURCE_FILE
from convert.importance import FIELDS, METADATA, MIN_TOKENS
from convert.journal import JOURNAL_FILE, Journal
from convert.lowbit import quantize
from convert.plan import FORMAT_VERSION
from convert.quantized import unpacked
from dsv4_mlx.files.safetensors_files import read_header
from dsv4_mlx.release.naming import translate
from dsv4_mlx.release.tensors import checkpoint_tensors
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import CONVERSION_FILE, open_checkpoint
from dsv4_mlx.weights.quantization import SCALE_BYTES, WeightStorage

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
SMALL = TINY.replace(
    num_hidden_layers=2, compress_ratios=(4, 128, 0), num_hash_layers=1, n_routed_experts=4
)


def table(heading: str) -> list[list[str]]:
    """Rows of the first table below a heading, without its head; cells as written."""
    section = PAGE.split(f"# {heading}\n")[1]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    rows = []
    for line in section[section.index(lines[0]) :].splitlines():
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows[2:]


def code(cell: str) -> str:
    """The first name in a cell."""
    return re.search(r"`([^`]+)`", cell)[1]


def codes(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


STORED = {
    "bf16": {"": {"BF16"}},
    "f32": {"": {"F32"}},
    "i64": {"": {"I64"}},
    "fp8": {".weight": {"F8_E4M3"}, ".scale": {"F8_E8M0", "F32"}},
    "expert": {".weight": {"I8", "F8_E4M3"}, ".scale": {"F8_E8M0", "F32"}},
}


def test_the_table_of_names_is_the_release():
    """Both directions: each tensor of a release is listed, each listed one exists and is ours."""
    listed = {}
    for official, ours, stored in table("Names"):
        for ending, dtypes in STORED[stored].items():
            field = {".weight": ".weight", ".scale": ".scales", "": ""}[ending]
            listed.setdefault(code(official) + ending, (code(ours) + field, dtypes))
    seen = {}
    for config in (TINY, TINY.replace(expert_dtype="fp8")):
        for tensor in checkpoint_tensors(config):
            name = re.sub(
                r"experts\.\d+", "experts.K", re.sub(r"layers\.\d+", "layers.N", tensor.name)
            )
            name = re.sub(r"^mtp\.\d+", "mtp.N", name)
            ours = translate(tensor.name).name
            ours = re.sub(r"^mtp\.\d+", "mtp.N", re.sub(r"layers\.\d+", "layers.N", ours))
            if name not in listed and name.startswith("mtp.N."):
                name = name.replace("mtp.N.", "layers.N.")
                ours = ours.replace("mtp.N.", "model.layers.N.")
            seen.setdefault(name, (ours, set()))[1].add(tensor.dtype)
    assert seen == listed


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    """A source, a text, its importance and a conversion with it that kept its journal."""
    folder = tmp_path_factory.mktemp("lab")
    source = write_tiny_checkpoint(folder / "source", SMALL, shards=2)
    (folder / "text.txt").write_text("One text for all. " * 9)
    importance = str(folder / "i.safetensors")
    assert main(["calibrate", str(source), str(folder / "text.txt"), "-o", importance]) == 0
    options = ["--recipe", "q2", "--importance", importance, "--delete-source"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Journal, "remove", lambda self: None)
        unlink = Path.unlink

        def keeping(self, missing_ok=False):
            if self.name != SOURCE_FILE:
                unlink(self, missing_ok=missing_ok)

        patched.setattr(Path, "unlink", keeping)
        assert main([str(source), str(folder / "out"), *options]) == 0
    return folder


def test_every_file_is_listed(lab):
    listed = [code(row[0]) for row in table("What is written: the folder")]
    copied = {"generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    kept = {JOURNAL_FILE, SOURCE_FILE, *copied}
    found = {path.name for path in (lab / "out").iterdir() if path.name not in kept}
    shown = {re.sub(r"-0*\d+-of-0*\d+", "-00001-of-0000n", name) for name in found}
    assert shown == set(listed) - {"draft.safetensors"}


def test_conversion_json_has_the_listed_keys(lab):
    summary = json.loads((lab / "out" / CONVERSION_FILE).read_text())
    listed = {code(key): meaning for key, meaning in table("conversion.json")}
    assert list(summary) == list(listed)
    assert listed["format_version"] == str(FORMAT_VERSION)
    assert codes(listed["importance"]) == set(summary["importance"])
    assert codes(listed["effort_table"]) >= set(summary["effort_table"])


def test_the_conversion_json_of_a_part_has_the_listed_keys_beside(tmp_path):
    two = SMALL.replace(num_hidden_layers=2, compress_ratios=(128, 0, 0))
    source = write_tiny_checkpoint(tmp_path / "source", two)
    assert main([str(source), str(tmp_path / "part"), "--layers", "0:1"]) == 0
    summary = json.loads((tmp_path / "part" / CONVERSION_FILE).read_text())
    whole = [code(key) for key, _ in table("conversion.json")]
    assert list(summary) == [*whole, *(code(key) for key, _ in table("Parts"))]


def test_the_journal_has_the_listed_kinds_and_keys(lab):
    found: dict[str, set[str]] = {}
    for line in (lab / "out" / JOURNAL_FILE).read_text().splitlines():
        entry = json.loads(line)
        found.setdefault(entry.pop("kind"), set()).update(entry)
    # Where no value changes; without drafts; of a part.
    found["start"] |= {"fingerprint", "draft_samples", "elsewhere"}
    assert found == {code(kind): codes(keys) for kind, keys in table("conversion.journal")}
    kept = json.loads((lab / "out" / SOURCE_FILE).read_text())
    assert set(kept) == codes(PAGE.split("`conversion.source.json` (")[1].partition(")")[0])


def test_the_importance_file_has_the_listed_parts(lab):
    with open(lab / "i.safetensors", "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    section = "The importance file\n" + PAGE.split("# The importance file\n")[1]
    keys = [code(line) for line in section.split("| key |")[1].splitlines()[2:] if line[:1] == "|"]
    assert keys == list(METADATA) == list(header["__metadata__"])
    listed = {
        code(name).removeprefix("X."): dtype for name, dtype, _ in table("The importance file")
    }
    assert list(listed) == list(FIELDS)
    for name, entry in header.items():
        if name != "__metadata__":
            assert entry["dtype"] == listed[name.rpartition(".")[2]], name
    assert f"fewer than {MIN_TOKENS} tokens" in PAGE


FORMS = {
    "mxfp4": {"weight": ("U32", 8), "scales": ("U8", 32)},
    "mxfp8": {"weight": ("U32", 4), "scales": ("U8", 32)},
}


def test_matrices_have_the_listed_forms(lab):
    """dtypes and fields from the table; widths as config.json and the table say."""
    listed = {form: tensors for form, tensors, _ in table("Matrices")}
    tensors = open_checkpoint(lab / "out").tensors
    quantization = json.loads((lab / "out" / "config.json").read_text())["quantization"]
    modes = set()
    for module, packing in quantization.items():
        if not isinstance(packing, dict):
            continue
        mode, bits, group = packing["mode"], packing["bits"], packing["group_size"]
        modes.add(mode)
        fields = {name.rpartition(".")[2] for name in tensors if name.startswith(f"{module}.")}
        assert fields == codes(listed[mode]), module
        for field in fields:
            assert tensors[f"{module}.{field}"].dtype in listed[mode], module
        width = tensors[f"{module}.weight"].shape[-1] * 32 // bits
        assert tensors[f"{module}.scales"].shape[-1] == width // group
        if mode in FORMS:
            assert tensors[f"{module}.weight"].shape[-1] == width // FORMS[mode]["weight"][1]
    assert modes == {"mxfp8", "affine"} and listed.keys() == {*FORMS, "affine", "block_fp8"}


def test_the_scale_bytes_are_the_codes():
    (low4, high4), (low8, high8) = (
        SCALE_BYTES[WeightStorage.MXFP4],
        SCALE_BYTES[WeightStorage.MXFP8],
    )
    sentence = f"outside {low4} to {high4} (mxfp4) and {low8} to {high8} (mxfp8)"
    assert sentence in " ".join(PAGE.split())


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_another_reader_can_unpack_affine_matrices(bits):
    """As the page says it, bit by bit: code n of 32 begins at bit n * bits of its words."""
    packed = quantize(mx.random.normal((4, 128)), bits, 64)
    words, scales, biases = (np.array(one.astype(dtype)) for one, dtype in zip(
        packed, (mx.uint32, mx.float32, mx.float32), strict=True))  # fmt: skip
    stream = np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little").reshape(4, 128, bits)
    codes = (stream << np.arange(bits)).sum(-1).reshape(4, 2, 64)
    values = scales[..., None] * codes.astype(np.float32) + biases[..., None]
    right = unpacked(packed, {"group_size": 64, "bits": bits})
    assert np.allclose(values.reshape(4, 128), np.array(right), rtol=0, atol=1e-6)


def test_headers_are_as_described(lab):
    path = next((lab / "out").glob("model-*.safetensors"))
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    assert length % 8 == 0 and header.pop("__metadata__") == {"format": "mlx"}
    entries = sorted(read_header(path).values(), key=lambda entry: entry.start)
    position = 8 + length
    widths = []
    for entry in entries:
        assert entry.start == position
        position += entry.nbytes
        widths.append(entry.nbytes // max(1, np.prod(entry.shape)))
    assert widths == sorted(widths, reverse=True) and position == path.stat().st_size
