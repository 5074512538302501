"""Runs a plan: shard after shard through temporary names, a journal beside them, the mark last.

At any moment a folder without conversion.json is unfinished, and one with it is whole. Killed
anywhere, a resumed run ends with the same bytes.
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from convert import named
from convert.card import CARD_FILE, card
from convert.companions import copy_companions
from convert.deletion import SOURCE_FILE, delete_finished, remember, require_read_back
from convert.destination import only_converter, require_empty, require_folder, require_same
from convert.disk import Disk
from convert.journal import JOURNAL_FILE, read_journal
from convert.parts import index_of, json_bytes, part_facts
from convert.plan import FORMAT_VERSION, ConversionPlan
from convert.progress import ProgressDisplay
from convert.read_as import read_as
from convert.report import bytes_per_token, room_sentence, size_text
from convert.room import free_bytes, room_needed
from convert.shards import ShardWriter, default_jobs
from convert.sources import SourceHashes, files_of, identity, require_unchanged
from dsv4_mlx import __version__
from dsv4_mlx.errors import CheckpointError, UsageError
from dsv4_mlx.files.system_files import without_system_files
from dsv4_mlx.release.token_map import TOKEN_MAP_FILE
from dsv4_mlx.weights.checkpoint import CONVERSION_FILE, INDEX_FILE, open_checkpoint
from dsv4_mlx.weights.fingerprint import fingerprint, timeline_fingerprint
from dsv4_mlx.weights.planning import plan_parameters
from dsv4_mlx.weights.table_rows import token_map_of


def write(
    plan: ConversionPlan,
    destination: Path,
    progress: ProgressDisplay,
    *,
    resume: bool = False,
    delete_source: bool = False,
    jobs: int | None = None,
    disk: Disk | None = None,
) -> None:
    """Run the plan, or what is left of it. UsageError, CheckpointError or OSError.

    `jobs` parameters are in work at a time; None is what suits the machine. Files do not depend
    on it.
    """
    disk = disk or Disk()
    disk.files.tell = progress.say
    require_folder(destination)
    if resume and (destination / CONVERSION_FILE).exists():
        require_same(plan, destination)
        for name in (JOURNAL_FILE, SOURCE_FILE):
            (destination / name).unlink(missing_ok=True)
        progress.say(f"{destination} is finished already", "finished")
        return
    if not resume:
        require_empty(destination)
    created = not destination.exists()
    destination.mkdir(parents=True, exist_ok=True)
    with only_converter(destination, disk.files):
        run = _Run(plan, destination, progress, disk, delete_source, jobs or default_jobs())
        try:
            run.require_room()
        except UsageError:
            if created:
                with suppress(OSError):  # a system may have put something there already
                    destination.rmdir()
            raise
        if run.journal.start and not resume:
            require_empty(destination)
        run.go()


class _Run:
    """One run over one destination, which nobody else writes to."""

    def __init__(
        self,
        plan: ConversionPlan,
        folder: Path,
        progress: ProgressDisplay,
        disk: Disk,
        delete_source: bool,
        jobs: int,
    ):
        self.plan, self.folder, self.progress, self.disk = plan, folder, progress, disk
        self.journal = read_journal(folder, disk)
        self.delete_source, self.jobs = delete_source, jobs
        self.read_as = read_as(plan.source.folder, self.journal.start.get("read_as"))
        engram = plan.source.config.engram
        self.token_map = None if engram is None else token_map_of(plan.source, engram)
        self.earlier: list[str] = []  # fingerprints that older cache files may name

    def require_room(self) -> None:
        """UsageError when the disk cannot hold what is left to be written."""
        free = free_bytes(self.folder)
        if free is None:
            return
        free += sum(path.stat().st_blocks * 512 for path in self._leftovers())
        needed = room_needed(
            self.plan, self.folder, delete_source=self.delete_source, journal=self.journal
        )
        if free < needed:
            raise UsageError(room_sentence(needed, self.folder, free))

    def _leftovers(self) -> list[Path]:
        """Files of a stopped run that the journal does not tell of: they go and are made anew."""
        if not self.journal.start:
            return []
        unknown = (
            self.folder / one.file for one in self.plan.files if one.file not in self.journal.shards
        )
        return [*self.folder.rglob("*.partial"), *filter(Path.exists, unknown)]

    def go(self) -> None:
        self._begin()
        hashes = SourceHashes(self.plan.source, self.journal)
        writer = ShardWriter(self.disk, self.progress, self.jobs)
        try:
            self._write_shards(writer, hashes)
        finally:
            hashes.close()
            writer.close()
        companions = copy_companions(self.plan.source.folder, self.folder, self.disk, self.progress)
        self._put_json(INDEX_FILE, index_of(self.plan))
        self._put_json("config.json", self.plan.config)
        companions |= self._put_token_map()
        companions |= self._put_card()
        self._require_unchanged()
        if self.read_as.effort.known_by == "assumed":
            self.progress.say(self.read_as.effort.sentence, "assumed", **self.read_as.facts())
        digest = self._verify()
        self.progress.say("verified: every tensor is in its place", "verified")
        self._put_json(CONVERSION_FILE, self._summary(companions, digest))
        self.journal.remove()
        (self.folder / SOURCE_FILE).unlink(missing_ok=True)
        self.disk.sync_folder(self.folder)

    def _begin(self) -> None:
        """A new journal, or a check that the old one tells of this very conversion."""
        if not self.journal.start:
            found = without_system_files(self.folder.iterdir())
            stray = [path.name for path in found if path.name != JOURNAL_FILE]
            if any(not name.endswith(".partial") for name in stray):
                require_empty(self.folder)
            start: dict[str, Any] = {
                "plan": self.plan.digest(),
                "source": identity(self.plan.source),
            }
            start |= named.at_start(self.plan, self.token_map)
            start |= {"recipe": self.plan.recipe.name, "read_as": self.read_as.facts()}
            self.journal.record("start", version=__version__, **start)
            return
        self._require_unchanged()
        if isinstance(name := self.journal.start.get("recipe"), str):
            # A file of rules may have been renamed since; the digest tells whether they changed.
            self.plan = replace(self.plan, recipe=replace(self.plan.recipe, name=name))
        begun = self.plan.as_begun(self.journal.start["plan"])
        if begun is None:
            raise UsageError(
                f"{self.folder} was begun with another recipe, importance file, choice of drafts, "
                "layers or program version; delete it and convert again."
            )
        self.plan = begun
        for path in self._leftovers():
            path.unlink()

    def _write_shards(self, writer: ShardWriter, hashes: SourceHashes) -> None:
        done = sum(shard.nbytes for shard in self.plan.files if self._is_written(shard.file))
        self.progress.begin(self.plan.nbytes, done)
        if self.delete_source and not (self.folder / SOURCE_FILE).exists():
            remember(self.plan, self.folder, self.disk)
        for shard in self.plan.files:
            hashes.begin(files_of(shard.jobs))
            if self._is_written(shard.file):
                # What an earlier run has written needs its sources no more: their room comes first.
                hashes.keep(wait=self.delete_source)
                self._delete()
                continue
            marked = replace(shard, mark=self.journal.start.get("backbone"))
            written = writer.write(marked, self.folder / shard.file)
            self._require_unchanged()
            self.journal.record("shard", **written)
            done += shard.nbytes
            self.progress.say(
                f"{shard.file}  {size_text(shard.nbytes)}  {done / self.plan.nbytes:.0%}",
                "shard",
                file=shard.file,
                bytes=written["bytes"],
            )
            hashes.keep(wait=self.delete_source)
            self._delete()
        hashes.keep(wait=True)
        self._delete()

    def _is_written(self, file: str) -> bool:
        return self.journal.wrote(file)

    def _require_unchanged(self) -> None:
        require_unchanged(self.plan.source, self.journal.start["source"], self.journal.deleted)

    def _delete(self) -> None:
        """The source's shards that nothing needs any more, where that was asked for."""
        if not self.delete_source:
            return
        for path in delete_finished(self.plan, self.folder, self.journal):
            self.progress.say(
                f"deleted {path.name}: all of it is converted", "deleted", file=path.name
            )

    def _put_card(self) -> dict[str, int]:
        text = card(self.plan, self.read_as, self._sizes(), self._noted("errors")).encode()
        self.disk.put(self.folder / CARD_FILE, text)
        return {CARD_FILE: len(text)}

    def _put_token_map(self) -> dict[str, int]:
        """Engram's, so that nobody has to make it of the tokenizer again."""
        if self.token_map is None:
            return {}
        self._put_json(TOKEN_MAP_FILE, self.token_map.tolist())
        return {TOKEN_MAP_FILE: (self.folder / TOKEN_MAP_FILE).stat().st_size}

    def _sizes(self) -> dict[str, int]:
        """The bytes of every shard, by file."""
        return {shard.file: self.journal.shards[shard.file]["bytes"] for shard in self.plan.files}

    def _noted(self, kind: str) -> dict[str, Any]:
        """What the journal keeps of all shards: hashes of `tensors`, or `errors`, by name."""
        shards = (self.journal.shards[shard.file] for shard in self.plan.files)
        return {name: value for shard in shards for name, value in shard[kind].items()}

    def _put_json(self, name: str, content: object) -> None:
        self.disk.put(self.folder / name, json_bytes(content))

    def _verify(self) -> str:
        """Reopen the result as the loader would; gives its fingerprint."""
        result = open_checkpoint(self.folder, self.plan.layers)
        parameters = plan_parameters(result)
        elsewhere = named.elsewhere(self.journal.start)
        digest = found = fingerprint(result, parameters, self.token_map, elsewhere)
        self.earlier = named.earlier(self.plan, parameters, self.journal.start, self.token_map)
        if not self.plan.backbone_is_exact:
            return digest
        expected = self._source_fingerprint()
        if not self.plan.exact:
            expected = self.journal.start["backbone"]
            found = timeline_fingerprint(result, parameters, self.token_map, elsewhere)
        if expected is None:
            for shard in self.plan.files:
                if shard.file not in self.journal.checked:
                    written = self.journal.shards[shard.file]
                    require_read_back(self.folder / shard.file, written, self.disk)
        elif found != expected:
            raise CheckpointError(
                f"{self.folder} does not hold what {self.plan.source.folder} holds; check the disk "
                "and convert again."
            )
        return digest

    def _source_fingerprint(self) -> str | None:
        """As the journal has it; where it lacks it, as long as all of the source is there."""
        noted = self.journal.start.get("fingerprint")
        if isinstance(noted, str):
            return noted
        if self.journal.deleted:
            return None
        return named.source_fingerprint(self.plan, self.token_map)

    def _summary(self, companions: dict[str, int], digest: str) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "written_by": f"dsv4-mlx {__version__}",
            **self.read_as.facts(),
            "recipe": self.plan.recipe.name,
            "rules": self.plan.recipe.as_rules(),
            "importance": self.plan.importance,
            "plan": self.plan.digest(),
            "fingerprint": digest,
            "backbone": self.journal.start.get("backbone"),
            "drafts": self.plan.draft_choice,
            "earlier_fingerprints": self.earlier,
            "bytes_per_token": bytes_per_token(self.plan),
            "file_bytes": self._sizes() | companions,
            "source_sha256": dict(sorted(self.journal.hashes.items())),
            "weight_error": dict(sorted(self._noted("errors").items())),
            "tensor_xxh3_128": dict(sorted(self._noted("tensors").items())),
            "set_aside": self.plan.set_aside,
            **part_facts(self.plan, self.read_as, self.journal.start),
        }
