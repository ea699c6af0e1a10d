"""The command `python -m lingen.flops`."""

import json
import subprocess
import sys


def test_command_line():
    run = [sys.executable, "-m", "lingen.flops", "--stages", "--json"]
    shown = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert json.loads(shown)["stages"][4]["stage"] == "t2v_512p_68s"
