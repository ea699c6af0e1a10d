"""jobs/retext.py on encoded real clips."""

import pytest
import torch

from data_prep.encode.retext import RetextConfig, retext
from lingen.data.shard_index import ShardIndex
from lingen.io.manifest import read_manifest
from lingen.tae.pretrained import load_tae
from lingen.text.encoders import build_text_encoder, parse_text_encoders

pytestmark = pytest.mark.slow


def test_text_is_replaced_alone(encoded, tmp_path, ray_cluster):
    """One encoder is added; then, of the two, one is replaced and the other's files stay the same files."""
    both, other = tmp_path / "both", tmp_path / "other"
    done = retext(RetextConfig(shards=encoded[0], output=both, text=("lingen-tiny", "b=lingen-tiny,seed=7")))
    assert (done.embedded, done.shared) == (["b"], ["lingen-tiny"])
    config = RetextConfig(shards=both, output=other, text=("b=lingen-tiny,seed=8", "lingen-tiny"))
    done = retext(config)
    assert (done.embedded, done.shared) == (["b"], ["lingen-tiny"])
    assert retext(config) == done
    manifest = read_manifest(other)
    assert manifest["job"] == "encode"
    assert manifest["config"]["text"] == ["b=lingen-tiny,seed=8", "lingen-tiny"]
    before, after = ShardIndex.open(both), ShardIndex.open(other)
    assert [form.name for form in after.text_format] == ["b", "lingen-tiny"]
    encoders = [build_text_encoder(c) for c in parse_text_encoders(config.text).values()]
    assert after.text_digests == [e.digest for e in encoders]
    assert (after.text_digests[0] != before.text_digests[0], after.text_digests[1]) == (True, before.text_digests[1])
    for name, bucket in before.buckets.items():
        for row in range(len(bucket)):
            latent, text = after.buckets[name].read(row)
            assert torch.equal(latent, bucket.read(row)[0])
            for encoder, embedding in zip(encoders, text, strict=True):
                (expected,) = encoder.encode([bucket.metadata(row)["caption"]])
                assert torch.allclose(embedding.float(), expected, atol=1e-2)
    for path in (encoded[0] / "text" / "lingen-tiny").rglob("*.tar"):
        assert path.samefile(other / path.relative_to(encoded[0]))
    assert load_tae(other / "tae").digest == after.format.tae_digest
