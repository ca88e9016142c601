"""Heads become a model file that classifies; bad input is refused on the way."""

import errno
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from tgems_edge import load
from tgems_edge.errors import HeadError
from tgems_edge.maths.rates import posterior
from tgems_edge.model_file.card import Card, EncoderId
from tgems_edge.model_file.seal import is_sealed
from tgems_edge.sources.data import read_labelled
from tgems_export.calibration import calibrate
from tgems_export.exporting import pipeline, sealing
from tgems_export.exporting.exits import load_exits
from tgems_export.exporting.graph import onnx_graph
from tgems_export.exporting.graph.exit_graph import ExitGraph
from tgems_export.exporting.settings import ExitSettings
from tgems_export.heads.file import load_head, save_head

TRAINED = ("blue_cross", "green_square", "red_circle")


@pytest.fixture(scope="module")
def exported(command, heads, tmp_path_factory):
    """The model file of exit 1, and what the command said."""
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    return path, command("export", "--layer", 1, "--head", heads, "--output", path)


@pytest.fixture
def card(exported):
    return load(exported[0]).card


@pytest.fixture
def export(command, heads, tmp_path):
    """export(*options): exit 1 to model.onnx, without chatter."""

    def export(*options, layer=1, head=heads, output=tmp_path / "model.onnx"):
        return command("export", "--layer", layer, "--head", head, "--output", output, "--quiet", *options)

    return export


def refused(result, message, exit_code=2):
    assert result.exit_code == exit_code
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert message in result.stderr


def test_export_ends_with_the_commands_to_run_next(exported):
    path, result = exported
    assert result.exit_code == 0
    assert result.stdout.startswith(f"✅ {path}: 3 classes, exit 1 of vit-demo, ")
    assert f"tgems-edge classify --model {path} IMAGE" in result.stdout
    assert f"from tgems_edge import load; print(load('{path}')" in result.stdout


def test_the_file_labels_the_figures(exported, command, figures):
    result = command("classify", figures, "--model", exported[0], "--json", "--batch", 16)
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0 and len(answers) == 120
    right = sum(answer["label"] == answer["image"].split("/")[-2] for answer in answers)
    assert right >= 108
    assert {answer["exit_layer"] for answer in answers} == {1}


def test_the_card_says_where_the_file_comes_from(card, encoder):
    assert card.classes == TRAINED and card.classes_not_trained == ()
    assert (card.exit_layers, card.last_exit.k, card.opset, card.precision) == ((1,), 16, 18, "fp32")
    assert card.encoder == encoder.id and card.preprocessing == encoder.preprocessing
    assert card.licence == {"code": "Apache-2.0", "weights": encoder.licence}
    assert (card.last_exit.calibration, card.calibration, card.accuracy) == (None, None, None)
    assert card.parity.pictures == 64 and card.parity.largest_rate_difference < 1e-4
    assert card.parity.label_agreement > 0.95
    assert [sample.kind for sample in card.samples] == ["noise", "noise", "jpeg", "jpeg"]
    assert Card.from_json(card.to_json()) == card


def test_the_file_states_its_own_digest(exported, card):
    assert is_sealed(exported[0])


def test_the_file_is_plain_onnx_with_metadata_for_other_tools(exported, card):
    model = onnx.load(exported[0], load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata.pop("date").count("-") == 2
    assert Card.from_json(metadata.pop("tgems")) == card
    assert metadata == {
        "description": "3 classes, exit 1 of vit-demo",
        "author": "tgems-edge",
        "version": card.versions["tgems-edge"],
        "license": f"code: Apache-2.0; weights: {card.licence['weights']}",
        "task": "classify",
        "imgsz": "[64, 64]",
        "names": "{0: 'blue_cross', 1: 'green_square', 2: 'red_circle'}",
    }


def test_half_precision_and_whole_pictures_are_in_the_card_and_the_file(export, tmp_path, figures, command):
    path = tmp_path / "half.onnx"
    result = export("--precision", "fp16", "--input", "image", "--data", figures, "--json", output=path)
    assert result.exit_code == 2 and "trained on these very pictures" in result.stderr
    result = export("--precision", "fp16", "--input", "image", "--json", output=path)
    report, card = json.loads(result.stdout), load(path).card
    assert (report["precision"], report["input"]) == (card.precision, card.input) == ("fp16", "image")
    assert report["resizing"]["pixels_within_1"] == card.resizing.pixels_within_1 >= 0.999
    assert 1e-6 < card.parity.largest_rate_difference < 1e-2
    found = command("classify", figures, "--model", path, "--json")
    labels = [json.loads(line) for line in found.stdout.splitlines()]
    assert sum(answer["label"] == answer["image"].split("/")[-2] for answer in labels) >= 108


def test_of_two_exports_at_once_one_wins_and_the_other_says_so(export, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"

    def meanwhile(model, card):
        path.write_bytes(b"another's")
        return serialise(model, card)

    serialise = sealing._serialise
    monkeypatch.setattr(sealing, "_serialise", meanwhile)
    refused(export(output=path), "model.onnx: made by another process meanwhile; give --overwrite or another")
    assert path.read_bytes() == b"another's" and list(tmp_path.glob(".*")) == []
    assert export("--overwrite", output=path).exit_code == 0
    assert is_sealed(path)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_number_of_threads_changes_no_byte(export, measured, tmp_path, monkeypatch, precision):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    before, contents = torch.get_num_threads(), set()
    try:
        for threads in (1, 2):
            monkeypatch.setenv("TGEMS_NUM_THREADS", str(threads))
            torch.set_num_threads(threads)
            path = tmp_path / f"{threads}.onnx"
            result = export("--precision", precision, "--data", measured, output=path)
            assert result.exit_code == 0, result.stderr
            assert torch.get_num_threads() == threads
            contents.add(path.read_bytes())
    finally:
        torch.set_num_threads(before)
    assert len(contents) == 1


def test_no_picture_of_the_user_is_in_the_file(exported, figures):
    content = exported[0].read_bytes()
    assert not any(path.read_bytes()[-40:] in content for path in figures.rglob("*.*"))


def test_with_a_fixed_date_an_export_repeats_to_the_byte(export, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    path = tmp_path / "model.onnx"
    assert export().exit_code == 0
    once = path.read_bytes()
    path.write_text("something older")
    assert export("--overwrite").exit_code == 0
    assert path.read_bytes() == once
    assert b"2001-09-09" in once


@pytest.fixture
def measured(fresh_figures, tmp_path):
    """A copy of the fresh figures, with two pictures that cannot be used."""
    root = shutil.copytree(fresh_figures, tmp_path / "measured")
    (root / "red_circle" / "broken.jpg").write_text("no picture")
    Image.new("RGB", (200_000, 1)).save(root / "red_circle" / "thin.png")
    return root


def test_half_of_the_data_calibrates_the_other_half_measures_and_the_report_is_json(
    export, measured, tmp_path
):
    result = export("--data", measured, "--json")
    assert result.exit_code == 0, result.stderr
    assert all(name in result.stderr for name in ("left out", "broken.jpg", "thin.png"))
    report = json.loads(result.stdout)
    card = load(tmp_path / "model.onnx").card
    assert report == {
        "model": str(tmp_path / "model.onnx"),
        "sha256": card.file_sha256,
        "bytes": (tmp_path / "model.onnx").stat().st_size,
        "seconds": report["seconds"],
        "layer": 1,
        "layer_name": "1",
        "classes": list(TRAINED),
        "classes_not_trained": [],
        "input": "pixels",
        "colour": "srgb",
        "precision": "fp32",
        "exits": [1],
        "quantisation": None,
        "dynamic": None,
        "parity": report["parity"],
        "resizing": None,
        "temperature": card.last_exit.temperature,
        "accuracy": report["accuracy"],
    }
    assert report["accuracy"]["images"] == card.accuracy.images
    assert card.calibration.images + card.accuracy.images == 210
    assert abs(card.calibration.images - card.accuracy.images) <= 4
    assert report["accuracy"]["top1"] == card.accuracy.top1 > 0.8
    assert report["parity"]["pictures"] == card.parity.pictures == 64 + card.accuracy.images


def test_a_folder_of_its_own_calibrates(export, fresh_figures, tmp_path):
    path = tmp_path / "model.onnx"
    result = export("--calibration", fresh_figures)
    assert result.exit_code == 0, result.stderr
    assert "calibrated on 210 pictures, temperature" in result.stdout
    model = load(path)
    card, exit_ = model.card, model.card.last_exit
    assert card.calibration.images == 210 and card.accuracy is None
    assert card.parity.pictures == 64 + 210 and card.parity.of.endswith("of --calibration")
    folder = read_labelled(fresh_figures)
    refused_pictures = set(card.calibration.beginnings())
    assert {digest[:6] for digest in folder.digests} == refused_pictures
    results = [model.classify(folder.path(i)) for i in range(len(folder.names))]
    rates = np.stack([r.rates for r in results])
    for r in results:
        np.testing.assert_allclose(r.probabilities, posterior(r.rates, exit_.k, exit_.temperature), atol=1e-5)
    fitted = calibrate(rates, folder.labels, exit_.k)
    assert exit_.temperature == pytest.approx(fitted.temperature, rel=1e-3)
    assert card.calibration.conformal == pytest.approx(fitted.conformal, abs=1e-3)
    assert card.calibration.rejection == pytest.approx(fitted.rejection, abs=1e-3)
    covered = [folder.classes[folder.labels[i]] in r.label_set(0.9) for i, r in enumerate(results)]
    assert np.mean(covered) >= 0.9
    assert np.mean([r.is_unknown(0.05) for r in results]) <= 0.05


@pytest.mark.parametrize("form", [("--input", "image"), ("--precision", "fp16")])
def test_every_form_of_the_file_is_calibrated(export, fresh_figures, tmp_path, form):
    assert export("--calibration", fresh_figures, *form).exit_code == 0
    model = load(tmp_path / "model.onnx")
    result = model.classify(fresh_figures / "red_circle" / "00.jpg")
    exit_ = model.card.last_exit
    expected = posterior(result.rates, exit_.k, exit_.temperature)
    np.testing.assert_allclose(result.probabilities, expected, atol=1e-5)
    assert exit_.temperature != 1


def test_other_names_get_tables_of_their_own_and_are_listed(export, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("red_circle\nfire truck\nété\n")
    result = export("--classes", names)
    assert result.exit_code == 0
    assert "untrained fire truck, été: names the head never saw" in result.stdout
    model = load(tmp_path / "model.onnx")
    assert model.card.classes == ("red_circle", "fire truck", "été")
    assert model.card.classes_not_trained == ("fire truck", "été")


def test_an_existing_file_is_not_replaced_unasked(export, tmp_path):
    old = tmp_path / "model.onnx"
    old.write_text("old")
    refused(export(), "model.onnx: exists already; give --overwrite or another --output")
    assert old.read_text() == "old"


@pytest.mark.parametrize("layer", [0, 13])
def test_a_layer_that_the_tower_does_not_have_is_refused(export, layer):
    refused(export(layer=layer), f"layer {layer}: vit-demo has the layers 1 to 12")


def test_what_is_missing_or_in_the_way_is_named(export, tmp_path):
    refused(export(output=tmp_path), "a folder; give --output a file name")
    refused(export(layer=3), "layer-03.safetensors: no such head file; make one with `tgems-edge train`")
    refused(export(head=tmp_path), "no head files here; make some with `tgems-edge train --out")
    refused(export("--opset", 17), "--opset 17: choose from 18 to 23")
    refused(export("--classes", tmp_path / "names.txt"), "names.txt: no such file")
    refused(export("--data", tmp_path / "pictures"), "pictures: no such folder")


def test_a_head_file_that_is_not_there_is_no_folder_of_heads(export, heads):
    refused(export(head=heads / "layer-1.safetensors"), "layer-1.safetensors: no such head file")


def test_a_head_of_another_layer_is_refused(export, heads):
    refused(export(head=heads / "layer-02.safetensors"), "a head for layer 2, not 1; give --layer 2")


def test_a_head_of_another_encoder_is_refused(export, heads, encoder, tmp_path):
    head, card = load_head(heads / "layer-01.safetensors", encoder)
    other = tmp_path / "other.safetensors"
    save_head(other, head, replace(card, encoder=EncoderId("demo", None, "f" * 64)))
    refused(export(head=other), "trained on demo with weights ffffffffffff, not on demo with weights")


def test_another_encoder_needs_a_head_of_its_own(command, tmp_path):
    result = command("export", "--encoder", "ViT-B-32", "--output", tmp_path / "model.onnx")
    refused(result, "--encoder ViT-B-32: give --head; `tgems-edge train --encoder ViT-B-32` makes one")


def test_names_that_clip_would_cut_off_are_refused(export, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("cat\n" + "dog " * 30)
    refused(export("--classes", names), "is too long")


def test_accuracy_on_the_training_pictures_is_refused(export, figures, tmp_path):
    message = "the head was trained on these very pictures; give others"
    refused(export("--data", figures), message)
    refused(export("--calibration", shutil.copytree(figures, tmp_path / "copy")), message)


@pytest.mark.parametrize("option", ["--data", "--calibration"])
def test_a_single_training_picture_is_found_by_its_content(export, figures, measured, option):
    shutil.copy(figures / "blue_cross" / "07.png", measured / "red_circle" / "renamed.png")
    message = "1 of its pictures, such as red_circle/renamed.png, are among those the head was trained on"
    refused(export(option, measured), message)


def test_without_the_list_of_training_pictures_there_is_a_warning(export, heads, measured, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(heads / "layer-01.safetensors", alone)
    result = export("--data", measured, head=alone)
    assert result.exit_code == 0 and "is not known: the list of its training pictures" in result.stderr
    shutil.copytree(heads, tmp_path / "heads")
    (listed,) = (tmp_path / "heads").glob("pictures-*.sha256")
    for damaged in (listed.read_bytes()[:-1], listed.read_bytes()[:-6], b""):
        listed.write_bytes(damaged)
        result = export("--data", measured, "--overwrite", head=tmp_path / "heads")
        refused(result, "cut short or damaged; copy it again")


def test_a_picture_that_calibrates_may_not_measure(export, fresh_figures, measured):
    message = "210 of its pictures, such as blue_cross/00.jpg, are among those to measure on in"
    refused(export("--calibration", fresh_figures, "--data", measured), message)


def test_too_few_pictures_to_calibrate_name_the_number_needed(export, measured, tmp_path):
    for name in TRAINED:
        for path in sorted((measured / name).iterdir())[20:]:
            path.unlink()
    refused(export("--data", measured), "60 pictures, half of which calibrate, and at least 198 are needed")
    refused(export("--calibration", measured), "60 pictures, and at least 99 are needed")
    for path in sorted((measured / "red_circle").iterdir())[1:]:
        path.unlink()
    refused(export("--data", measured), "red_circle: 1 different pictures, too few to split; 2 are needed")
    shutil.rmtree(measured / "red_circle")
    refused(export("--calibration", measured), "no picture of class 'red_circle'; calibrating needs some")


def test_data_of_another_class_is_refused(export, measured):
    (measured / "red_circle").rename(measured / "pentagon")
    refused(export("--data", measured), "folder 'pentagon' is not among the model's classes")


def test_a_graph_that_differs_ends_with_exit_code_3_and_without_a_file(export, tmp_path, monkeypatch):
    def perturbed(*arguments, **options):
        graph = ExitGraph(*arguments, **options)
        graph.heads[0].tables.bias.data += torch.tensor([0.0, 0.1, 0.0])
        return graph

    monkeypatch.setattr(pipeline, "ExitGraph", perturbed)
    refused(export(), "the graph differs from PyTorch by 0.1", exit_code=3)
    assert not (tmp_path / "model.onnx").exists()


def test_a_folder_that_cannot_be_written_to_is_one_line(export, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    refused(export(output=tmp_path / "file" / "model.onnx"), str(tmp_path / "file"))


def test_a_head_with_random_weights_finds_its_encoder_again(command, make_folder, tmp_path):
    pets = make_folder(tmp_path / "pets", {"cat": 4, "dog": 4})
    options = ("--encoder", "demo", "--pretrained", "random", "--epochs", 1, "--k", 8, "--layer", 1)
    assert command("train", pets, *options, "--out", tmp_path / "heads").exit_code == 0
    assert load_exits(ExitSettings((1,), tmp_path / "heads"))[0].encoder.id.pretrained == "random"
    with pytest.raises(HeadError, match="trained on demo with weights"):
        load_exits(ExitSettings((1,), tmp_path / "heads", encoder="demo"))


@pytest.mark.slow
def test_a_tower_without_class_token_goes_the_whole_way(command, make_folder, tmp_path):
    """SigLIP 2: pictures squashed, exits that read the mean, no tokenizer at hand."""
    pets = make_folder(tmp_path / "pets", {"cat": 4, "dog": 4})
    heads, siglip = tmp_path / "heads", ("--encoder", "ViT-B-32-SigLIP2-256", "--pretrained", "random")
    options = (*siglip, "--epochs", 1, "--k", 8, "--layer", 2, "--out", heads)
    refused(command("train", pets, *options, "--pool", "cls", "-q"), "give --pool auto or --pool mean")
    assert command("train", pets, *options).exit_code == 0
    for kind in ("pixels", "image"):
        model = tmp_path / f"{kind}.onnx"
        result = command("export", "--layer", 2, "--head", heads, "--input", kind, "--output", model)
        assert result.exit_code == 0, result.stderr
        card = load(model).card
        assert (card.last_exit.pool, card.preprocessing.resize_mode, card.preprocessing.size) == (
            "mean",
            "squash",
            (256, 256),
        )
        assert (card.encoder.name, card.encoder.pretrained) == ("ViT-B-32-SigLIP2-256", "random")
    answers = [
        load(tmp_path / f"{kind}.onnx").classify(pets / "cat" / "00.png") for kind in ("pixels", "image")
    ]
    torch.testing.assert_close(answers[0].rates, answers[1].rates, rtol=1e-3, atol=1e-3)


def test_more_than_one_file_holds_is_refused(export, monkeypatch):
    monkeypatch.setattr(onnx_graph, "SIZE_LIMIT", 100_000)
    refused(export(), "0.0 GB of weights, and one file holds less than 2; give an earlier --layer")


def test_a_full_disk_is_named_and_leaves_nothing_behind(export, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused(export(), "model.onnx: not enough disk for 1 MB; free some, or write elsewhere")
    assert list(tmp_path.iterdir()) == []
