"""What a conversion will write, down to the byte, before it writes any.

Pure: headers are read, nothing else. Every tensor of the source is consumed by exactly one job or
kept aside; every shard knows its jobs, its tensors and its size.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from convert.drafts import ConvertedParameter, DraftHandling, eight_bits
from convert.importance import Importance
from convert.jobs import Job, copy_job, native_job, sources_of
from convert.layout import MAX_SHARD_BYTES, Shard, shards_of
from convert.quantized import quantized_job
from convert.recipe import NATIVE, Recipe, read_recipe, require_used
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.paths import is_utf8
from dsv4_mlx.files.safetensors_files import TensorEntry
from dsv4_mlx.release.layer_ranges import LayerRange
from dsv4_mlx.release.naming import is_draft
from dsv4_mlx.weights.checkpoint import CONVERSION_FILE, DRAFT_FILE, Checkpoint
from dsv4_mlx.weights.parameters import Parameter, ParameterPlan
from dsv4_mlx.weights.planning import plan_parameters
from dsv4_mlx.weights.quantization import PACKINGS, PackingKeys, WeightStorage

FORMAT_VERSION = 2


@dataclass(frozen=True)
class ConversionPlan:
    """Everything that `writer` needs: shards, the new config.json, where it comes from."""

    recipe: Recipe
    source: Checkpoint
    parameters: ParameterPlan
    shards: tuple[Shard, ...]
    """Those of the model; draft blocks that it runs (MTP) are alone in the last."""
    drafts: Shard
    config: dict[str, Any]
    importance: Mapping[str, Any] | None = None
    """What conversion.json says of the importance file."""
    draft_choice: DraftHandling = "keep"
    left_out: tuple[TensorEntry, ...] = ()
    """What of the source's drafts is not converted."""
    former: tuple[ConvertedParameter, ...] = ()
    """MTP blocks as `keep` would have them, where another choice was made."""
    layers: LayerRange | None = None
    """Those that are converted; None for all."""
    elsewhere: tuple[ConvertedParameter, ...] = ()
    """Parameters of other layers, as their part of the conversion will have them."""
    max_shard_bytes: int = MAX_SHARD_BYTES

    @property
    def all_files(self) -> tuple[Shard, ...]:
        """All shards of the whole model."""
        return (*self.shards, *([self.drafts] if self.drafts.jobs else []))

    @property
    def files(self) -> tuple[Shard, ...]:
        """All shards to be written."""
        return tuple(shard for shard in self.all_files if self.holds(shard.jobs[0].module))

    def holds(self, module: str) -> bool:
        """Whether a module's layer is converted; draft blocks' is the last."""
        return self.layers is None or self.layers.holds(module)

    @property
    def nbytes(self) -> int:
        return sum(shard.nbytes for shard in self.files)

    @property
    def set_aside(self) -> list[str]:
        """The tensors beside those of the model."""
        drafts = [shard for shard in self.files if shard is self.drafts]
        return [output.name for shard in drafts for job in shard.jobs for output in job.outputs]

    @property
    def jobs(self) -> Iterator[Job]:
        """Those of the model that are run."""
        return (job for shard in self.files if shard is not self.drafts for job in shard.jobs)

    @property
    def all_jobs(self) -> Iterator[Job]:
        """Those of the whole model."""
        return (job for shard in self.shards for job in shard.jobs)

    @property
    def exact(self) -> bool:
        """Whether every value is the source's."""
        return self.draft_choice == "keep" and self.backbone_is_exact

    @property
    def backbone_is_exact(self) -> bool:
        """The same, of all but draft blocks if these are not kept as they are."""
        jobs = (j for j in self.all_jobs if self.draft_choice == "keep" or not is_draft(j.module))
        return all(job.error is None for job in jobs)

    def whole(self) -> "ConversionPlan":
        """The same for all layers."""
        return replace(self, layers=None, elsewhere=())

    def as_begun(self, digest: object) -> "ConversionPlan | None":
        """The plan of that digest that makes the same of the source: this one, or the one with the
        shards of earlier versions; None where neither is it."""
        if digest == self.digest():
            return self
        jobs, layers = list(self.all_jobs), self.source.config.num_hidden_layers
        packed = tuple(shards_of(jobs, layers, self.max_shard_bytes, by_layers=False))
        earlier = replace(self, shards=packed)
        return earlier if self.layers is None and digest == earlier.digest() else None

    def digest(self) -> str:
        """64 hexadecimal digits over all that decides which bytes are written where."""
        shards = [
            [shard.file, [[job.module, job.format, *map(str, job.outputs)] for job in shard.jobs]]
            for shard in self.all_files
        ]
        decided = [FORMAT_VERSION, self.recipe.name, shards, self.config]
        if self.importance is not None:
            decided.append(self.importance["sha256"])
        if self.draft_choice != "keep":
            decided.append(f"drafts {self.draft_choice}")
        if self.layers is not None:
            decided.append(f"layers {self.layers}")
        text = json.dumps(decided, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def plan_conversion(
    source: Checkpoint,
    recipe: str | Recipe = NATIVE,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    parameters: ParameterPlan | None = None,
    importance: Importance | None = None,
    drafts: DraftHandling = "keep",
    layers: LayerRange | None = None,
) -> ConversionPlan:
    """Plan one conversion; UsageError for an unknown recipe or a folder already converted.

    `parameters` saves matching the tensors anew when several recipes are compared. `importance`
    weights the errors of what is quantized; UsageError where nothing is. `drafts`: `keep` leaves
    DSpark's stages as they are and MTP blocks to the recipe, `drop` leaves both out, `q8` gives
    either at most eight bits a weight and no recipe touches them. `layers` are those that will be
    written, in the files that a conversion of all would have.
    """
    rules = read_recipe(recipe) if isinstance(recipe, str) else recipe
    if (source.folder / CONVERSION_FILE).exists():
        raise UsageError(f"{source.folder} is already converted; give the official folder.")
    _require_names(source)
    parameters = parameters or plan_parameters(source)
    backbone = tuple(one for one in parameters.parameters if not is_draft(one.module))
    by_recipe = parameters.parameters if drafts == "keep" else backbone
    require_used(rules, by_recipe)
    packings = {one.module: packed for one in by_recipe if (packed := rules.packing(one))}
    if importance is not None and not packings:
        raise UsageError(
            f"The recipe {rules.name} quantizes nothing, so there is nothing to weigh; leave "
            "--importance or choose another recipe."
        )
    model = backbone if drafts == "drop" else parameters.parameters
    stages = parameters.drafts if drafts == "q8" else ()
    if drafts == "q8":
        packings |= {
            one.module: packed
            for one in (*parameters.parameters, *stages)
            if is_draft(one.module) and (packed := eight_bits(one))
        }

    def job(one: Parameter) -> Job:
        if one.module not in packings:
            return native_job(one, source.config.n_routed_experts)
        return quantized_job(one, packings[one.module], None if one in stages else importance)

    jobs, beside = [job(one) for one in model], [job(one) for one in stages]
    if drafts == "keep":
        beside = [copy_job(entry) for entry in beside_model(source, parameters)]
    left_out = _left_out(source, (*jobs, *beside)) if drafts != "keep" else ()
    _require_each_once(source, (*jobs, *beside), left_out)
    return ConversionPlan(
        rules,
        source,
        parameters,
        tuple(shards_of(jobs, source.config.num_hidden_layers, max_shard_bytes)),
        Shard(DRAFT_FILE, tuple(beside)),
        _config(source, (*model, *stages), packings),
        importance.facts if importance else None,
        drafts,
        left_out,
        _former(parameters, rules, importance) if drafts != "keep" else (),
        None if layers is None or layers.is_whole else layers,
        _elsewhere(model, packings, importance, layers),
        max_shard_bytes,
    )


def _elsewhere(
    parameters: Iterable[Parameter],
    packings: Mapping[str, PackingKeys],
    importance: Importance | None,
    layers: LayerRange | None,
) -> tuple[ConvertedParameter, ...]:
    return tuple(
        ConvertedParameter(one, packings.get(one.module), importance)
        for one in parameters
        if layers is not None and not layers.holds(one.module)
    )


def _former(
    parameters: ParameterPlan, rules: Recipe, importance: Importance | None
) -> tuple[ConvertedParameter, ...]:
    return tuple(
        ConvertedParameter(one, rules.packing(one), importance)
        for one in parameters.parameters
        if is_draft(one.module)
    )


def _left_out(source: Checkpoint, jobs: Iterable[Job]) -> tuple[TensorEntry, ...]:
    """Tensors of drafts that no job consumes."""
    used = {entry.name for job in jobs for entry in job.sources}
    return tuple(
        entry for name, entry in source.tensors.items() if is_draft(name) and name not in used
    )


def beside_model(source: Checkpoint, parameters: ParameterPlan) -> list[TensorEntry]:
    """The tensors without which the model runs: DSpark's stages, copies of embedding and head."""
    model = {entry.name for one in parameters.parameters for entry in sources_of(one)}
    return [entry for name, entry in source.tensors.items() if name not in model]


def _require_names(source: Checkpoint) -> None:
    """The journal and conversion.json name the source's files, and JSON is UTF-8."""
    for path in {entry.path for entry in source.tensors.values()}:
        if not is_utf8(path.name):
            raise UsageError(
                f"{path} has a name that is no UTF-8, expected one that is; rename the file."
            )


def _require_each_once(
    source: Checkpoint, jobs: Iterable[Job], left_out: Iterable[TensorEntry]
) -> None:
    used = Counter(entry.name for job in jobs for entry in job.sources)
    used.update(entry.name for entry in left_out)
    if used != Counter(source.tensors.keys()):
        wrong = (used - Counter(source.tensors.keys())) or (Counter(source.tensors.keys()) - used)
        raise LookupError(f"the plan does not consume each tensor once: {next(iter(wrong))}")


def _config(
    source: Checkpoint, parameters: Iterable[Parameter], packings: dict[str, PackingKeys]
) -> dict[str, Any]:
    """The source's config.json, with `quantization` as MLX's loaders read it."""
    keys = {key: value for key, value in source.keys.items() if key != "quantization_config"}
    packed: dict[str, Any] = dict(PACKINGS[WeightStorage.MXFP4])
    for parameter in parameters:
        if packing := packings.get(parameter.module) or parameter.packing:
            packed[parameter.module] = packing
    changed = {"expert_dtype": source.config.expert_dtype, "quantization": packed}
    return keys | changed
