"""Aesthetic scores and embeddings of stored stills: an open_clip image tower and LAION's head on top of it.

Only real weights make an aesthetic score, so without them there is none (data_prep/measure/technical.py is something
else). The head is LAION's improved-aesthetic-predictor (Schuhmann 2022) or its linear predecessor: linear layers on the
normalised embedding; for the usual one the tower must be ViT-L-14 with OpenAI's weights.

B: stills in a batch; D: the embedding's width.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.measure.store import Snapshot, Store
from data_prep.ray_cluster import connect, quiet_ray
from lingen.io.manifest import digest, file_digest
from lingen.io.progress import Progress

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
    """Stills at once."""
    gpus: float = 0.0
    """GPUs that a worker reserves; a share lets several use one."""
    cpus: float = 0.9
    """CPUs that a worker reserves."""
    workers: int = 1
    """Copies of the model at work."""

    def __post_init__(self):
        if self.head is not None and not self.enabled:
            raise ValueError(
                "--aesthetic.head: needs a model with weights; add --aesthetic.weights (openai, or a file)"
            )
        if self.head is not None and not Path(self.head).is_file():
            raise ValueError(f"--aesthetic.head: {self.head} is no file")
        if self.weights and self.weights.endswith((".pt", ".bin", ".safetensors")) and not Path(self.weights).is_file():
            raise ValueError(f"--aesthetic.weights: {self.weights} is no file")

    @property
    def enabled(self) -> bool:
        return bool(self.weights) or self.model.startswith(("hf-hub:", "local-dir:"))

    @property
    def revision(self) -> str:
        """A digest of what decides the scores: the model's name or files, and the head's content."""
        parts = [VERSION, self.model, self.weights]
        local = [Path(p) for p in (self.weights, self.head) if p and Path(p).is_file()]
        if self.model.startswith("local-dir:"):
            local += sorted(p for p in Path(self.model[len("local-dir:") :]).iterdir() if p.is_file())
        return digest([*parts, *(file_digest(p) for p in local)])


def score(keys: pa.ChunkedArray, stills: Store, folder: Path, config: AestheticConfig, allow_new: bool = True) -> Store:
    """Score the stills of the contents `keys` that have no score of this revision yet; the store of all of them.

    Raises:
        ValueError: allow_new is off and something has not been scored.
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

    connect()
    dataset = ray.data.read_parquet([str(p) for p in stills.parts()]).map_batches(
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
        store.add(batch)
        progress.update(batch.num_rows)
        if store.due:
            store.flush()
    store.flush()
    progress.close()


class Scorer:
    """One Ray actor with a copy of the model. Batch: key, still_s, jpeg; result: SCHEMA, for the keys in `todo`."""

    def __init__(self, config: AestheticConfig, todo):
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
        """float32 (B, D), each of length 1."""
        import torch
        from PIL import Image

        out = []
        with torch.inference_mode():
            for i in range(0, len(jpegs), self.config.batch_size):
                images = [Image.open(io.BytesIO(j)).convert("RGB") for j in jpegs[i : i + self.config.batch_size]]
                pixels = torch.stack([self.preprocess(image) for image in images]).to(self.device)
                out.append(self.model.encode_image(pixels, normalize=True).float().cpu().numpy())
        return np.concatenate(out)


def load_head(path: Path):
    """The head as a function: float32 (B, D) -> (B,). Its linear layers are applied in the order of their names; the
    original has dropout between them and no non-linearity. Never unpickles anything but tensors.

    Raises:
        ValueError: the file holds no chain of linear layers that ends in one number.
    """
    import torch

    if str(path).endswith(".safetensors"):
        from safetensors.torch import load_file

        state = load_file(str(path))
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    names = sorted((n for n in state if n.endswith("weight")), key=_natural)
    layers = [(state[n].float().numpy(), state[n[: -len("weight")] + "bias"].float().numpy()) for n in names]
    widths = [w.shape for w, _ in layers]
    if not layers or widths[-1][0] != 1 or any(a[0] != b[1] for a, b in itertools.pairwise(widths)):
        raise ValueError(f"--aesthetic.head: {path} is no chain of linear layers that ends in one number ({widths})")

    def head(x_BD: np.ndarray) -> np.ndarray:
        if x_BD.shape[1] != widths[0][1]:
            raise ValueError(
                f"--aesthetic.head: made for embeddings of {widths[0][1]}, the model's have {x_BD.shape[1]}"
            )
        for weight, bias in layers:
            x_BD = x_BD @ weight.T + bias
        return x_BD[:, 0]

    return head


def _natural(name: str) -> list:
    return [int(part) if part.isdigit() else part for part in name.split(".")]


class AestheticLookup:
    """content hashes -> {content hash: (score per still, embeddings float32 (stills, D))}."""

    def __init__(self, scored: Snapshot):
        self._scored = scored

    def __call__(self, keys: set[str]) -> dict[str, tuple[list[float], np.ndarray]]:
        return {row["key"]: (row["aesthetic"], _vectors(row["embedding"])) for row in self._scored.rows(keys=keys)}


def _vectors(embedding: list[bytes]) -> np.ndarray:
    return np.stack([np.frombuffer(e, np.float16).astype(np.float32) for e in embedding])
