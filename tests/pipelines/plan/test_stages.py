"""From recipes and folders to planned stages."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.plan.stages import kept_clips, planned_stages, text_of
from pipelines.recipes import RECIPES


def test_every_stage_of_the_paper_has_its_largest_bucket():
    stages = planned_stages(RECIPES["paper"])
    assert [s.name for s in stages] == [s.name for s in RECIPES["paper"].stages]
    assert stages[1].largest.name in ("video_192x352_272f", "video_352x192_272f")


def test_text_encoders_have_the_sizes_of_their_names():
    flags = ("--serve-shorter", "--text", "clip=ViT-L-14,pretrained=x", "google/byt5-small,family=t5,max_tokens=100")
    assert text_of((*flags, "--fps", "16")) == ((100, 1472), (77, 768))
    assert text_of(("--text", "mine/unknown,family=t5")) == ((256, 1024),)


def test_curated_clips_count_where_they_are_long_enough(tmp_path):
    columns = {"media_type": ["video", "video", "image"], "start_s": [0.0, 1.0, None], "end_s": [30.0, 18.5, None]}
    pq.write_table(pa.table(columns), tmp_path / "clips.parquet")
    assert kept_clips(tmp_path)[0] == ("video", 30.0)
    there = {s.name: s.there for s in planned_stages(RECIPES["paper"], curated=tmp_path)}
    assert there["t2v_256p_17s"] == {"images": 1, "videos": 2}
    assert there["t2v_512p_34s"] == {"images": 1, "videos": 0}


def test_another_folder_is_no_curated_one(tmp_path):
    with pytest.raises(ValueError, match=r"--curated: .* has no clips\.parquet"):
        planned_stages(RECIPES["paper"], curated=tmp_path)
