"""The settings of a curation, composed of each step's own, and what follows from them."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from data_prep.curate.balance import BalanceConfig
from data_prep.curate.license import LicenseConfig
from data_prep.curate.near_duplicates import DuplicateConfig
from data_prep.curate.quality import QualityConfig
from data_prep.curate.spans import SpanConfig
from data_prep.curate.takedown import Takedown
from data_prep.curate.thresholds import CaptionConfig, FilterConfig
from data_prep.measure.aesthetic import AestheticConfig
from data_prep.measure.cuts import ShotConfig
from data_prep.measure.examine import ExamineConfig
from data_prep.measure.run import DecodeConfig
from data_prep.sources.columns import parse_columns
from data_prep.sources.manifest import SourceConfig
from lingen.io.manifest import digest, file_digest

NOT_CONTENT = frozenset(["output", "store", "overwrite", "refilter", "decode", "what_if", "estimate"])
"""Fields that do not decide the content of the output: where it goes, and how it is made."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurateConfig:
    """Curate clips: licence gate, probe, shots, scores, filter, ledger and report."""

    input: str
    """A folder of clips, a glob, WebDataset tars, or a manifest (CSV, Parquet or JSONL) with the columns uri, caption,
    license, source, attribution; a path or a URI such as s3://bucket/prefix."""
    output: Path
    """Folder for the result."""
    columns: tuple[str, ...] = ()
    """Columns of your manifest that have other names, as OURS=YOURS, such as caption=text uri=path."""
    source: SourceConfig = dataclasses.field(default_factory=SourceConfig)
    license: LicenseConfig = dataclasses.field(default_factory=LicenseConfig)
    examine: ExamineConfig = dataclasses.field(default_factory=ExamineConfig)
    decode: DecodeConfig = dataclasses.field(default_factory=DecodeConfig)
    shots: ShotConfig = dataclasses.field(default_factory=ShotConfig)
    spans: SpanConfig = dataclasses.field(default_factory=SpanConfig)
    aesthetic: AestheticConfig = dataclasses.field(default_factory=AestheticConfig)
    filter: FilterConfig = dataclasses.field(default_factory=FilterConfig)
    takedown: Path | None = None
    """CSV of what must go: columns content (hash or clip_id), uri, source, license, attribution, detail. Such
    media are no longer read, and their pictures are removed from the store."""
    caption: CaptionConfig = dataclasses.field(default_factory=CaptionConfig)
    duplicates: DuplicateConfig = dataclasses.field(default_factory=DuplicateConfig)
    balance: BalanceConfig = dataclasses.field(default_factory=BalanceConfig)
    quality: QualityConfig = dataclasses.field(default_factory=QualityConfig)
    store: Path | None = None
    """Folder that keeps measurements between runs, apart from the output so that they outlive it. Default: the output
    folder's name with .store added."""
    overwrite: bool = False
    """Replace an output folder made with other settings. Stored measurements that still apply are reused."""
    refilter: bool = False
    """Like --overwrite, and refuse to read media: decide everything again from stored measurements."""
    what_if: bool = False
    """Write nothing: print what other thresholds would keep, from stored measurements."""
    estimate: int = 0
    """Write nothing: measure this many clips and predict how long all of them will take."""

    def __post_init__(self):
        parse_columns(self.columns)
        if self.takedown is not None:
            Takedown.read(self.takedown)
        if self.filter.min_aesthetic is not None and self.aesthetic.head is None:
            raise ValueError(
                "--filter.min-aesthetic: there is no aesthetic score without --aesthetic.weights and --aesthetic.head; "
                "--filter.min-technical needs no weights"
            )
        if self.balance.keep is not None and not self.aesthetic.enabled:
            raise ValueError("--balance.keep: concepts need embeddings; add --aesthetic.weights")

    @functools.cached_property
    def takedown_list(self) -> Takedown | None:
        """The list that `takedown` names, read once."""
        return Takedown.read(self.takedown) if self.takedown else None

    @property
    def store_folder(self) -> Path:
        """The folder that keeps measurements."""
        return self.store or self.output.with_name(self.output.name + ".store")

    def content(self) -> dict[str, object]:
        """What decides the content of the output; files by their digests."""
        names = (field.name for field in dataclasses.fields(self))
        content = {name: getattr(self, name) for name in names if name not in NOT_CONTENT}
        content["license"] = self.license.content()
        if not self.columns:  # as in folders of versions that could not map any
            del content["columns"]
        if self.quality.decisions:
            content["quality"] = [self.quality, file_digest(self.quality.decisions)]
        content["takedown"] = self.takedown_list and self.takedown_list.digest
        content["aesthetic"] = self.aesthetic.revision if self.aesthetic.enabled else None
        return content

    def stage_hashes(self) -> dict[str, str]:
        """The config_hash of each stage before the thresholds, in the ledger's order."""
        return {
            "source": digest(self.source),
            "license": digest(self.license.content()),
            **({"takedown": self.takedown_list.digest} if self.takedown_list else {}),
            "read": digest([self.examine, self.decode]),
            "duplicate": "",
            "spans": digest([self.shots, self.spans]),
        }
