from jobs import train_tae
from jobs.train_tae import run
from pipelines.training.tae import TrainTAEConfig


def test_the_closing_table_has_segments_and_held_out_quality(tmp_path, monkeypatch, capsys):
    outputs = {"tae": "feed", "windows": 12, "unreadable": 1, "held_out": {"psnr": 30.5, "ssim": 0.9}}
    monkeypatch.setattr(train_tae, "train_tae", lambda config: {"outputs": outputs})
    run(TrainTAEConfig(curated=tmp_path, output=tmp_path / "tae"))
    rows = [line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines()[:4]]
    assert rows == [
        ["segments", "12"],
        ["unreadable segments", "1"],
        ["held-out psnr (dB)", "30.5"],
        ["held-out ssim", "0.9"],
    ]
