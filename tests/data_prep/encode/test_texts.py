import shutil

import torch

from data_prep.encode.parts import is_done
from data_prep.encode.pool import EncodeWorkers
from data_prep.encode.texts import text_tree, write_text
from lingen.data.shard_index import ShardIndex
from lingen.text.encoders import TextEncoderConfig, build_text_encoder

BUCKETS = ["image_64x64", "video_48x80_17f"]
ENCODER = TextEncoderConfig(model="lingen-tiny", seed=7)


def write(folder, name="lingen-tiny"):
    write_text(folder, BUCKETS, name, ENCODER, "float32", EncodeWorkers())


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
