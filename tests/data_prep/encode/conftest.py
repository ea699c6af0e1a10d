"""Rows of clips.parquet, segments, stand-ins for Ray, and a small encoded folder for the tests of encoding."""

import shutil
from types import SimpleNamespace

import pytest
import torch

from data_prep.encode import job, retext, texts
from data_prep.encode.error_table import ERROR_COLUMNS, write_errors
from data_prep.encode.job import index_digests
from data_prep.encode.pool import collect
from data_prep.encode.segments import cut_segments
from data_prep.encode.summary import BucketSummary, EncodeSummary, summarize_stages
from data_prep.ray_cluster import shared_cluster
from lingen.data.index_file import INDEX, read_index
from lingen.data.synthetic import write_random_latents
from lingen.io.manifest import OutputFolder, to_plain
from lingen.tae.config import TAEConfig
from lingen.tae.pretrained import save_tae
from lingen.tae.tae import TAE
from lingen.text.encoders import TextEncoderConfig, build_text_encoder

RATIOS = ("1:1", "16:9", "9:16", "4:3", "3:4")


@pytest.fixture(scope="session")
def make_clip():
    """make_clip(name, seconds, ...) -> a row of clips.parquet."""

    def make(name="0123456789abcdef-0-9000", seconds=9.0, width=1280, height=720, media="video", start=0.0):
        facts = {"clip_id": name, "uri": f"/c/{name}", "content_hash": name, "media_type": media}
        facts |= {"width": width, "height": height, "start_s": start, "end_s": start + seconds}
        return facts | {"caption": f"caption of {name}", "license": "CC0-1.0", "source": "s", "attribution": "a"}

    return make


@pytest.fixture(scope="session")
def cut():
    """cut(*clips, **changes) -> SegmentLayout at 64p."""

    def make(*clips, **changes):
        options = {"resolution": 64, "frames": [1, 32], "fps": 16.0, "aspect_ratios": RATIOS, "max_upscale": 1.25}
        return cut_segments(clips, **options | {"max_per_clip": 10_000} | changes)

    return make


@pytest.fixture
def tally():
    """A Tally's handle without an actor; `counted` is the sum."""
    handle = SimpleNamespace(counted=0)

    def add(n):
        handle.counted += n

    handle.add = SimpleNamespace(remote=add)
    return handle


@pytest.fixture
def without_ray(monkeypatch, tally):
    """Shards run one after the other in this process; returns the list of the tasks that were run."""
    tasks_run = []

    def run_shards(worker, settings, tasks, config, progress):
        progress.close()
        built = worker(settings, tally) if tasks else None
        tasks_run.extend(tasks)
        return collect(built(task) for task in tasks)

    for module in (job, texts):
        monkeypatch.setattr(module, "run_shards", run_shards)
    for module in (job, retext):
        monkeypatch.setattr(module, "connect", lambda: None)
        monkeypatch.setattr(module, "pool_size", lambda config: 1)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # the workers' own, not this process's
    return tasks_run


@pytest.fixture(scope="module")
def ray_cluster():
    """Ray in this process, for the module."""
    with shared_cluster():
        yield


@pytest.fixture(scope="session")
def small_tae():
    """A TAE with random weights."""
    torch.manual_seed(0)
    return TAE(TAEConfig(channels=(8, 8, 16, 16), blocks=1, decoder_blocks=1)).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def _encoded_once(tmp_path_factory, small_tae):
    folder = tmp_path_factory.mktemp("random") / "encoded"
    output = OutputFolder.open(folder, "encode", {"text": ["lingen-tiny"], "dtype": "float16"}, {"curated": "c"})
    encoder = build_text_encoder(TextEncoderConfig(model="lingen-tiny"))
    save_tae(small_tae, folder / "tae")
    write_random_latents(
        folder,
        {"image_64x64": 9, "video_48x80_17f": 6},
        per_shard=4,
        encoders=[("lingen-tiny", encoder.digest, encoder.dim)],
        tae_digest=small_tae.digest,
        clip_ids=[f"{i:016x}-0-1000" for i in range(9)],
    )
    errors = [
        dict.fromkeys(ERROR_COLUMNS, "") | {"clip_id": f"{i:016x}-0-1000", "reason": "truncated"} for i in (2, 99)
    ]
    write_errors(folder, errors)
    buckets = [
        BucketSummary.from_rows(path.parent.name, 64, read_index(path)[0].to_pylist())
        for path in sorted(folder.glob(f"latents/*/{INDEX}"))
    ]
    summary = EncodeSummary(
        buckets=buckets,
        stages=summarize_stages((), {64: {1, 17}}, buckets),
        errors={"truncated": 2},
        unused={},
        leftover_hours=0.5,
        warnings=[],
        seconds=1.0,
    )
    output.publish(index_digests(folder) | {"summary": to_plain(summary)})
    return folder


@pytest.fixture
def encoded(_encoded_once, tmp_path):
    """A finished folder of jobs/encode.py: 9 images in 3 shards and 6 videos in 2, random latents and text."""
    return shutil.copytree(_encoded_once, tmp_path / "encoded")
