"""Whatever is given as a CLIP ends as one line that names it; no code in it is run, nothing is written."""

import contextlib
import json
import pickle
from pathlib import Path

import open_clip
import pytest
from attacks.encoders import ARCHITECTURE, ATTACKS, MARKER
from safetensors.torch import load_file
from typer.testing import CliRunner

from tgems_edge.cli import app
from tgems_export.encoders.checkpoints.loading import DEMO_FOLDER
from tgems_export.exporting.exits import DEMO_HEADS


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of the demo CLIP, whose architecture is registered under a name without tags."""
    folder = tmp_path_factory.mktemp("architecture")
    config = json.loads((DEMO_FOLDER / "open_clip_config.json").read_text())["model_cfg"]
    (folder / f"{ARCHITECTURE}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    return load_file(DEMO_FOLDER / "open_clip_model.safetensors")


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_a_wrong_encoder_is_named_in_one_line(attack, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = attack.make(tmp_path, weights)
    if "--head" not in options:
        options += ["--head", str(DEMO_HEADS)]
    done = CliRunner().invoke(app, ["export", *options, "--output", "model.onnx"])
    assert done.exit_code == attack.code, done.stderr
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert attack.words in done.stderr
    assert not Path(MARKER).exists() and not Path("model.onnx").exists()


def test_the_program_in_a_pickle_would_have_run(tmp_path, monkeypatch):
    """Otherwise its absence above would prove nothing."""
    from attacks.encoders import RunsACommand

    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(RunsACommand()))
    assert Path(MARKER).exists()


def test_the_code_of_a_tokenizer_would_have_run(tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    attack = next(attack for attack in ATTACKS if attack.name == "trusted tokenizer")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    attack.make(tmp_path, {})
    with contextlib.suppress(Exception):  # it has no vocabulary
        AutoTokenizer.from_pretrained(tmp_path / "clip", trust_remote_code=True)
    assert Path(MARKER).exists()
