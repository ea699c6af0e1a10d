"""Aesthetic scores and embeddings of stored stills: an open_clip image tower with LAION's head on top.

Without model weights there is no aesthetic score; technical quality (data_prep/measure/technical.py) does not replace
it. The head is LAION's improved-aesthetic-predictor (Schuhmann 2022) or its linear predecessor: linear layers on the
normalised embedding; for the usual one the tower must be ViT-L-14 with OpenAI's weights.

B: stills in a batch; D: the embedding's width.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.measure.store import Snapshot, Store
from data_prep.ray_cluster import connect, quiet_ray
from lingen.io.manifest import digest, file_digest
from lingen.io.progress import Progress

if TYPE_CHECKING:
    import ray

VERSION = 1
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("still_s", pa.list_(pa.float64())),
        ("aesthetic", pa.list_(pa.float32())),  # one per still; empty without a head
        ("embedding", pa.list_(pa.binary())),  # float16, normalised, one per still
    ]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AestheticConfig:
    model: str = "ViT-L-14"
    """open_clip model: a name, hf-hub:OWNER/NAME, or local-dir:FOLDER."""
    weights: str | None = None
    """Weights for a model given by name: a file, or a pretrained tag such as openai. None and a plain name: no scores
    and no embeddings."""
    head: Path | None = None
    """LAION's head for this model (.safetensors or .pth). None: embeddings only."""
    batch_size: int = 32
    """Stills per batch."""
    gpus: float = 0.0
    """GPUs that a worker reserves; a fraction lets several workers share one."""
    cpus: float = 0.9
    """CPUs that a worker reserves."""
    workers: int = 1
    """Workers, each with a copy of the model."""

    def __post_init__(self) -> None:
        if self.head is not None and not self.enabled:
            raise ValueError(
                "--aesthetic.head: needs a model with weights; add --aesthetic.weights (openai, or a file)"
            )
        if self.head is not None and not Path(self.head).is_file():
            raise ValueError(f"--aesthetic.head: {self.head} is not a file")
        if self.weights and self.weights.endswith((".pt", ".bin", ".safetensors")) and not Path(self.weights).is_file():
            raise ValueError(f"--aesthetic.weights: {self.weights} is not a file")

    @property
    def enabled(self) -> bool:
        """Whether there is a model with weights."""
        return bool(self.weights) or self.model.startswith(("hf-hub:", "local-dir:"))

    @property
    def revision(self) -> str:
        """A digest of what determines the scores: the model's name or files, and the head's content."""
        parts = [VERSION, self.model, self.weights]
        local = [Path(p) for p in (self.weights, self.head) if p and Path(p).is_file()]
        if self.model.startswith("local-dir:"):
            local += sorted(p for p in Path(self.model[len("local-dir:") :]).iterdir() if p.is_file())
        return digest([*parts, *(file_digest(p) for p in local)])


def score(keys: pa.ChunkedArray, stills: Store, folder: Path, config: AestheticConfig, allow_new: bool = True) -> Store:
    """Score stills that have no score of this model revision yet.

    Args:
        keys: content hashes to score.
        stills: where their stills are.
        folder: of all stages of the store.
        config: the model.
        allow_new: whether the model may run.
    Returns:
        The store of all scores of this revision.
    Raises:
        ValueError: allow_new is off and some content has no score.
    """
    store = Store(folder, f"aesthetic-{config.revision}-{stills.folder.name.rpartition('-')[2]}", SCHEMA)
    todo = keys.filter(pc.invert(pc.is_in(keys, store.table(["key"])["key"].combine_chunks()))).combine_chunks()
    if len(todo) and not allow_new:
        raise ValueError(f"--refilter: {len(todo)} clips have no aesthetic score of this model yet; leave it out once")
    if len(todo):
        _run(todo, stills, store, config)
    return store


def _run(todo: pa.Array, stills: Store, store: Store, config: AestheticConfig) -> None:
    import ray

    snapshot = Snapshot(stills)
    blocks = list(snapshot.tables(["key"], todo))
    if not blocks:
        return

    def read(block: pa.Table) -> pa.Table:
        return pa.concat_tables([stills.schema.empty_table(), *snapshot.tables(keys=block["key"].combine_chunks())])

    connect()
    # Not Ray's reading of files: another job may fold them meanwhile.
    found = ray.data.from_arrow(blocks).map_batches(read, batch_format="pyarrow", batch_size=None, num_cpus=0.1)
    dataset = found.map_batches(
        Scorer,
        fn_constructor_kwargs={"config": config, "todo": ray.put(todo)},
        batch_format="pyarrow",
        batch_size=16,
        compute=ray.data.ActorPoolStrategy(size=config.workers),
        num_cpus=config.cpus,
        num_gpus=config.gpus or None,
    )
    quiet_ray()
    progress = Progress("aesthetic", len(todo), "files")
    for batch in dataset.iter_batches(batch_format="pyarrow", batch_size=None, prefetch_batches=1):
        assert isinstance(batch, pa.Table)
        store.add(batch)
        progress.update(batch.num_rows)
        if store.due:
            store.flush()
    store.flush()
    progress.close()


class Scorer:
    """A Ray actor with a copy of the model; scores batches of stills (key, still_s, jpeg).

    Args:
        config: the model.
        todo: content hashes to score, or a reference to them; others are left out of the result.
    """

    def __init__(self, config: AestheticConfig, todo: pa.Array | ray.ObjectRef[pa.Array]):
        import open_clip
        import ray
        import torch

        self.config, self.todo = config, ray.get(todo) if isinstance(todo, ray.ObjectRef) else todo
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, self.preprocess = open_clip.create_model_from_pretrained(
            config.model, pretrained=config.weights, device=self.device, weights_only=True
        )
        self.model.eval()
        self.head = load_head(config.head) if config.head else None

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Score a batch; returns rows of SCHEMA."""
        rows = [row for row in batch.filter(pc.is_in(batch["key"], self.todo)).to_pylist() if row["jpeg"]]
        embeddings = self.embed([jpeg for row in rows for jpeg in row["jpeg"]]) if rows else np.zeros((0, 1))
        scores = self.head(embeddings) if self.head else None
        at, out = 0, []
        for row in rows:
            here = slice(at, at + len(row["jpeg"]))
            at = here.stop
            out.append(
                {
                    "key": row["key"],
                    "still_s": row["still_s"],
                    "aesthetic": scores[here].tolist() if scores is not None else [],
                    "embedding": [e.astype(np.float16).tobytes() for e in embeddings[here]],
                }
            )
        return pa.Table.from_pylist(out, schema=SCHEMA)

    def embed(self, jpegs: list[bytes]) -> np.ndarray:
        """Embed JPEG files: float32 (B, D), each row of length 1."""
        import torch
        from PIL import Image

        out = []
        with torch.inference_mode():
            for i in range(0, len(jpegs), self.config.batch_size):
                images = [
                    # Earlier versions stored nothing for strips that were too long for a JPEG.
                    Image.open(io.BytesIO(jpeg)).convert("RGB") if jpeg else Image.new("RGB", (16, 16))
                    for jpeg in jpegs[i : i + self.config.batch_size]
                ]
                pixels = torch.stack([self.preprocess(image) for image in images]).to(self.device)
                out.append(self.model.encode_image(pixels, normalize=True).float().cpu().numpy())
        return np.concatenate(out)


def load_head(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Load a head; unpickles nothing but tensors.

    Its linear layers are applied in the order of their names; the original has dropout between them and no
    non-linearity.

    Args:
        path: .safetensors, or a PyTorch file of tensors.
    Returns:
        The head as a function: float32 (B, D) -> (B,).
    Raises:
        ValueError: the file is not a chain of linear layers that ends in one number.
    """
    from lingen.io.tensors import read_tensors

    try:
        state = read_tensors(path)
    except ValueError as error:
        raise ValueError(f"--aesthetic.head: {error}") from error
    names = sorted((n for n in state if n.endswith("weight")), key=_natural)
    layers = [(state[n].float().numpy(), state[n[: -len("weight")] + "bias"].float().numpy()) for n in names]
    widths = [w.shape for w, _ in layers]
    if not layers or widths[-1][0] != 1 or any(a[0] != b[1] for a, b in itertools.pairwise(widths)):
        raise ValueError(f"--aesthetic.head: {path} is not a chain of linear layers that ends in one number ({widths})")

    def head(x_BD: np.ndarray) -> np.ndarray:
        if x_BD.shape[1] != widths[0][1]:
            raise ValueError(
                f"--aesthetic.head: made for embeddings of width {widths[0][1]}, the model's have {x_BD.shape[1]}"
            )
        for weight, bias in layers:
            x_BD = x_BD @ weight.T + bias
        return x_BD[:, 0]

    return head


def _natural(name: str) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in name.split(".")]


class AestheticLookup:
    """Looks up scores and embeddings by content hash."""

    def __init__(self, scored: Snapshot):
        self._scored = scored

    def __call__(self, keys: set[str]) -> dict[str, tuple[list[float], np.ndarray]]:
        """{content hash: (score of each still, embeddings float32 (B, D) of all its stills)}, of `keys` with scores."""
        return {row["key"]: (row["aesthetic"], _vectors(row["embedding"])) for row in self._scored.rows(keys=keys)}


def _vectors(embedding: list[bytes]) -> np.ndarray:
    return np.stack([np.frombuffer(e, np.float16).astype(np.float32) for e in embedding])
