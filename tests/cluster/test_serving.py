"""What a rendered RayService would run: Ray Serve's LLM application round a published model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.cli import main
from tests.cluster.manifests import IMAGE, ROOT
from tests.limits import HANG_S
from tests.ports import free_port


@pytest.mark.slow
def test_the_application_of_a_rayservice_answers(tiny_models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The config of the demo, its volume in a directory of this test; the model has a name, and samples tokens.

    In pods no volume may lie below /tmp, so the directory takes the place of /runs in what was rendered.
    """
    monkeypatch.chdir(ROOT)
    volume, manifest = tmp_path / "runs", tmp_path / "service.yaml"
    words = ["cluster", "render", "configs/pipeline.yaml", "--kind", "rayservice", "--name", "chat", "--image", IMAGE]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--out", str(manifest)])
    assert not ended.value.code
    rendered = manifest.read_text(encoding="utf-8")
    assert "model_source: /runs/chat/ppo\n" in rendered
    manifest.write_text(rendered.replace("model_source: /runs/", f"model_source: {volume}/"), encoding="utf-8")
    shutil.copytree(tiny_models.tied, volume / "chat" / "ppo")
    port = free_port()
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "serve_application.py"), str(manifest), str(port)],
        cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=HANG_S, check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith('{"model"')]
    answer = json.loads(line)
    assert answer["model"] == "chat" and 1 <= answer["tokens"] <= 4
