import os
import shutil
import signal

import pytest
import torch

from data_prep.encode import texts
from data_prep.encode.error_table import ERROR_COLUMNS
from data_prep.encode.parts import DEATHS, forget_deaths, is_done
from data_prep.encode.pool import EncodeWorkers
from data_prep.encode.texts import text_tree, write_text
from data_prep.media.errors import OurBug
from lingen.data.shard_index import ShardIndex
from lingen.data.shards import DamagedSample
from lingen.text.encoders import TextEncoderConfig, build_text_encoder

BUCKETS = ["image_64x64", "video_48x80_17f"]
ENCODER = TextEncoderConfig(model="lingen-tiny", seed=7)


def write(folder, name="lingen-tiny"):
    return write_text(folder, BUCKETS, name, ENCODER, "float32", EncodeWorkers())


def test_every_text_is_of_its_own_caption_in_the_order_of_the_latents(encoded, without_ray, tally):
    shutil.rmtree(encoded / "text")
    write(encoded)
    index, encoder = ShardIndex.open(encoded), build_text_encoder(ENCODER)
    assert index.text_digests == [encoder.digest]
    assert index.text_format[0].dtype == "float32"
    assert tally.counted == len(index) == 15
    for bucket in index.buckets.values():
        captions = [bucket.metadata(row)["caption"] for row in range(len(bucket))]
        for row, expected in enumerate(encoder.encode(captions)):
            assert torch.allclose(bucket.read(row)[1][0], expected, atol=1e-5)


def test_shards_that_a_killed_run_finished_are_not_embedded_again(encoded, without_ray):
    write(encoded, "new")
    assert len(without_ray) == 5
    index = (encoded / text_tree("new") / BUCKETS[0] / "index.parquet").read_bytes()
    part = next((encoded / "parts" / "text" / "new" / BUCKETS[0]).glob("*.json"))
    part.unlink()
    assert not is_done(encoded, text_tree("new"), BUCKETS[0], f"{part.stem}.tar")
    write(encoded, "new")
    assert [(task["bucket"], task["shard"]) for task in without_ray[5:]] == [(BUCKETS[0], f"{part.stem}.tar")]
    assert (encoded / text_tree("new") / BUCKETS[0] / "index.parquet").read_bytes() == index


class Choosy:
    """An encoder that raises for captions with certain words."""

    def __init__(self, *words):
        self.inner, self.words = build_text_encoder(ENCODER), words
        self.name, self.digest, self.dim = self.inner.name, self.inner.digest, self.inner.dim

    def encode(self, captions):
        found = [tokens_LD.clone() for tokens_LD in self.inner.encode(captions)]
        for caption, tokens_LD in zip(captions, found):
            if caption in self.words:
                raise UnicodeEncodeError("utf-8", caption, 0, 1, "surrogates not allowed")
            if caption == "caption 5":
                tokens_LD[0, 0] = torch.inf
        return found


@pytest.fixture
def choosy(monkeypatch):
    """choosy(*captions): the encoder cannot take these."""
    return lambda *words: monkeypatch.setattr(texts, "build_text_encoder", lambda config, device: Choosy(*words))


def test_a_caption_that_the_encoder_cannot_take_is_embedded_as_an_empty_one(encoded, without_ray, choosy):
    choosy("caption 2")
    rows = write(encoded, "new")
    index = ShardIndex.open(encoded)
    assert [(row["bucket"], row["key"][15], row["reason"]) for row in rows] == [
        ("image_64x64", "2", "internal_error"),
        ("image_64x64", "5", "not_finite"),
        ("video_48x80_17f", "2", "internal_error"),
        ("video_48x80_17f", "5", "not_finite"),
    ]
    assert rows[0]["detail"].startswith("embedded as an empty caption: UnicodeEncodeError: ")
    assert rows[1]["detail"].startswith("embedded as an empty caption: a value is not finite")
    assert set(rows[0]) == set(ERROR_COLUMNS)
    empty, second, sixth = build_text_encoder(ENCODER).encode(["", "caption 1", "caption 6"])
    for bucket in index.buckets.values():
        tokens = [text[index.text_format.index(_form(index, "new"))] for _, text in map(bucket.read, range(6))]
        assert torch.allclose(tokens[1], second, atol=1e-5)
        for row in (2, 5):
            assert torch.allclose(tokens[row], empty, atol=1e-5)
    assert torch.allclose(index.buckets["image_64x64"].read(6)[1][1], sixth, atol=1e-5)


def _form(index, name):
    return next(form for form in index.text_format if form.name == name)


def test_an_encoder_that_takes_nothing_ends_the_job(encoded, without_ray, choosy):
    choosy("caption 2", "")
    with pytest.raises(UnicodeEncodeError):
        write(encoded, "new")
    assert not (encoded / "text" / "new" / BUCKETS[0] / "index.parquet").exists()


def test_many_captions_in_a_row_are_our_bug(encoded, without_ray, choosy, monkeypatch):
    monkeypatch.setattr("data_prep.media.errors.IN_A_ROW", 3)
    choosy("caption 2", "caption 3", "caption 8")  # a shard without any lies between
    write(encoded, "not in a row")
    choosy("caption 4", "caption 5", "caption 6")
    with pytest.raises(OurBug, match=r"3 different files in a row.*embedded as an empty caption: UnicodeEncodeError"):
        write(encoded, "new")


@pytest.fixture
def worker(encoded, tally):
    """worker() -> one that has just been started, for new text of `encoded`."""
    settings = texts.TextSettings(
        output=str(encoded), name="new", encoder=ENCODER, dtype="float32", device="cpu", threads=torch.get_num_threads()
    )
    return lambda: texts.TextWorker(settings, tally)


@pytest.mark.parametrize("dies", ["loading", "embedding"])
def test_a_shard_with_which_workers_die_is_given_up(encoded, worker, monkeypatch, dies):
    """The process itself is not killed here: what is raised is caught by nobody, and leaves behind what a kill does."""
    (task, other) = ({"bucket": BUCKETS[0], "shard": f"00000{i}.tar"} for i in range(2))

    class Killed(BaseException):
        pass

    def die(*arguments):
        raise Killed

    with monkeypatch.context() as deadly:
        if dies == "loading":
            deadly.setattr(texts, "build_text_encoder", die)
        else:
            deadly.setattr(texts.TextWorker, "_embed", die)
        for _ in range(DEATHS + 1):
            with pytest.raises(Killed):
                worker()(task)
        said = worker()(task)["stop"]
    assert said.startswith("text/new/image_64x64/000000.tar: the process that embeds its captions died 4 times")
    assert "--workers.count" in said
    assert worker()(other) == {"samples": 4, "stop": ""}, "the others are not to blame"
    forget_deaths(encoded)
    assert worker()(task) == {"samples": 4, "stop": ""}
    assert not list((encoded / "parts").rglob("*.in_hand"))


@pytest.mark.slow
def test_ray_starts_a_worker_that_is_killed_again_but_not_for_ever(encoded, ray_cluster, monkeypatch):
    class Deadly(texts.TextWorker):
        def _embed(self, samples):
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(texts, "TextWorker", Deadly)
    with pytest.raises(OurBug, match=r"text/new/image_64x64/00000\d\.tar: .* died 4 times"):
        write(encoded, "new")


def test_damaged_metadata_are_not_embedded(encoded, without_ray):
    bucket = ShardIndex.open(encoded).buckets[BUCKETS[0]]
    row = bucket.table.to_pylist()[1]
    tar = encoded / "latents" / BUCKETS[0] / row["shard"]
    data = bytearray(tar.read_bytes())
    data[row["metadata_offset"] + 20] ^= 1
    tar.write_bytes(data)
    with pytest.raises(DamagedSample, match="checksum differs"):
        write(encoded, "new")
