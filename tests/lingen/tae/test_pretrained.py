import pytest
import torch

from lingen.io.manifest import read_json, write_json
from lingen.tae.config import TAEConfig
from lingen.tae.pretrained import load_tae, save_tae
from lingen.tae.tae import TAE

SMALL = TAEConfig(channels=(8, 16), blocks=1, decoder_blocks=1, time_levels=1)
FOLDED = TAEConfig(
    channels=(8, 16, 16), blocks=1, decoder_blocks=1, time_levels=2, patch=(2, 2, 2), linear_shortcut=True
)


@pytest.fixture(params=[SMALL, FOLDED], ids=["movie_gen", "folded"])
def tae(request):
    torch.manual_seed(0)
    return TAE(request.param).eval()


def test_saved_and_loaded_is_the_same_revision(tae, tmp_path):
    tae.set_normalisation(torch.arange(16.0), torch.arange(16.0) + 1)
    save_tae(tae, tmp_path)
    again = load_tae(tmp_path)
    assert isinstance(again, TAE)
    assert (again.config, again.digest) == (tae.config, tae.digest)
    assert not again.training
    assert not any(p.requires_grad for p in again.parameters())
    video = torch.rand(1, 3, 8, 16, 16)
    torch.testing.assert_close(again.encode(video), tae.eval().encode(video))
    with torch.no_grad():
        next(again.parameters()).add_(1e-3)
    assert again.digest != tae.digest


def test_a_folder_without_a_tae_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"--tae: .* does not contain a TAE .*name a folder of jobs/train_tae.py"):
        load_tae(tmp_path)


def test_weights_of_another_size_are_refused(tae, tmp_path):
    save_tae(tae, tmp_path)
    about = read_json(tmp_path / "tae.json")
    about["config"]["channels"][0] = 4
    write_json(tmp_path / "tae.json", about)
    with pytest.raises(ValueError, match=r"--tae: the weights in .* do not fit its tae.json"):
        load_tae(tmp_path)
