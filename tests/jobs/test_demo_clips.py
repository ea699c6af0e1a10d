from jobs import demo_clips
from jobs.demo_clips import DemoClipsConfig, run
from lingen.io.manifest import file_digest, read_manifest


def test_clips_are_made_once_and_the_manifest_is_tied_to_them(tmp_path, monkeypatch, capsys):
    made = []

    def make(output, **numbers):
        made.append(numbers)
        (output / "manifest.csv").write_text("uri,caption\n")
        return output / "manifest.csv"

    monkeypatch.setattr(demo_clips, "make_demo_clips", make)
    config = DemoClipsConfig(output=tmp_path / "out", scenes=7, stills=2, videos=5, seed=3)
    run(config)
    run(config)
    assert made == [{"scenes": 7, "stills": 2, "videos": 5, "seed": 3}]
    manifest = read_manifest(tmp_path / "out")
    assert manifest["job"] == "demo_clips"
    assert manifest["outputs"] == {"manifest.csv": file_digest(tmp_path / "out" / "manifest.csv")}
    assert capsys.readouterr().out == f"clips: {tmp_path}/out/manifest.csv\n" * 2
