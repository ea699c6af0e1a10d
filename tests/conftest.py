import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import imageio_ffmpeg
import pytest

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes share two cores; more threads only wait
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")

# The fault matrix takes ten minutes: `make faults`.
collect_ignore_glob = [] if os.environ.get("LINGEN_FAULTS") else ["faults/*"]

SHARED_CLIPS = Path(__file__).parents[2] / "shared" / "clips"


def pytest_collection_modifyitems(items):
    """Files with end-to-end tests first: of two processes, none shall wait at the end for the other's long file."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="module", autouse=True)
def no_ray_left():
    """Jobs leave Ray running in their process, and a cluster that a later file starts there would take its address."""
    yield
    ray = sys.modules.get("ray")
    if ray and ray.is_initialized():
        ray.shutdown()


@pytest.fixture(scope="session")
def clips() -> Path:
    """The folder of real test media (videos/, photos/, odd/, manifest.csv); skips where it is absent."""
    if not SHARED_CLIPS.is_dir():
        pytest.skip(f"no test media at {SHARED_CLIPS}")
    return SHARED_CLIPS


@pytest.fixture(scope="session")
def ffmpeg() -> str:
    """The ffmpeg program that imageio-ffmpeg carries."""
    return imageio_ffmpeg.get_ffmpeg_exe()


@pytest.fixture(scope="session")
def chromium() -> str:
    """A browser that takes screenshots; skips where there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no chromium here; install the distribution's package to test pages")
    return found


@pytest.fixture(scope="session")
def random_model(tmp_path_factory) -> Path:
    """The output folder of a stage whose model learnt nothing: tiny, square, one second."""
    pytest.importorskip("open_clip")
    import torch

    from lingen.io.manifest import to_plain
    from lingen.model.denoiser import Denoiser
    from lingen.model.presets import preset
    from lingen.model.pretrained import export_model
    from lingen.tae.config import TAEConfig
    from lingen.tae.pretrained import save_tae
    from lingen.tae.tae import TAE
    from lingen.text.encoders import TextEncoderConfig, build_text_encoder

    folder = tmp_path_factory.mktemp("random") / "stage"
    torch.manual_seed(0)
    save_tae(TAE(TAEConfig(channels=(8, 8, 16, 16), blocks=1, decoder_blocks=1)), folder / "tae")
    text = TextEncoderConfig(model="lingen-tiny")
    about = {
        "bucket": "video_64x64_16f",
        "resolution": 64,
        "fps": 16.0,
        "prompts": ["a red ball"],
        "text": to_plain([text]),
        "text_digests": [build_text_encoder(text).digest],
    }
    model = Denoiser(preset("tiny"))
    for matrix in (p for p in model.parameters() if p.ndim > 1):
        torch.nn.init.normal_(matrix, std=0.05)  # gates and the head are zero at first: noise for any prompt
    weights = model.state_dict()
    export_model(folder / "model", weights, weights, model.config, about, folder / "tae")
    return folder


@pytest.fixture
def stranger(monkeypatch):
    """A server that keys must not reach: `address` (HOST:PORT) and `requests`, all it was sent, with their headers."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(f"{self.command} {self.path}\n{self.headers}")
            self.send_error(404)

        do_HEAD = do_PUT = do_POST = do_GET

        def log_message(self, *args):
            pass

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLEKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "sessiontoken")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody: no test asks Amazon
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield SimpleNamespace(address=f"127.0.0.1:{server.server_address[1]}", requests=requests)
        server.shutdown()


@pytest.fixture(scope="module")
def s3_server():
    """A local S3 server with an empty bucket, s3://clips, to which this process's s3:// URIs lead."""
    pytest.importorskip("moto")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    before = dict(os.environ)
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        for _ in range(600):
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        from pyarrow import fs

        s3, _ = fs.FileSystem.from_uri("s3://clips?allow_bucket_creation=true")
        s3.create_dir("clips")
        yield s3
    finally:
        os.environ.clear()
        os.environ.update(before)
        server.kill()
        server.wait()
