"""The heads that ship with the demo, on pictures that nothing was trained on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tgems_edge.model_file.gate import INPUT
from tgems_edge.runtime.images import decode, to_pixels
from tgems_edge.runtime.session import open_session
from tgems_export.demo.packs import read_pack
from tgems_export.exporting.exits import load_exits
from tgems_export.exporting.graph.assembly import flat
from tgems_export.exporting.graph.exit_graph import Cut, ExitGraph
from tgems_export.exporting.graph.onnx_graph import to_onnx
from tgems_export.exporting.settings import ExitSettings

PACK = Path(__file__).parents[4] / "shared" / "data" / "cifar10_val_jpeg.npz"


@pytest.mark.skipif(not PACK.exists(), reason="CIFAR-10 is not here: shared/data beside the repository")
def test_exit_5_knows_cifar_10_and_its_graph_gives_the_same_labels():
    pack = np.load(PACK)
    files = np.split(pack["bytes"], np.cumsum(pack["lengths"].astype(np.int64))[:-1])
    chosen = range(0, len(files), 5)
    exit_ = load_exits(ExitSettings((5,)))[0]
    assert exit_.classes == tuple(pack["classes"])
    encoder, pool = exit_.encoder, exit_.card.pool
    pictures = [decode(files[i].tobytes()) for i in chosen]
    images = torch.stack([encoder.reference_transform(picture) for picture in pictures])
    expected = exit_.head.rates(encoder.exit_activation(images, 5, pool), exit_.text).argmin(1).numpy()
    assert len(chosen) == 500
    assert np.mean(expected == pack["labels"][chosen]) > 0.6

    cut = ExitGraph(encoder, [Cut(5, pool, exit_.head)], exit_.text)
    graph = flat(to_onnx(cut, encoder.preprocessing.size, 18), [5])
    pixels = np.stack([to_pixels(picture, encoder.preprocessing) for picture in pictures])
    (labels,) = open_session(graph.SerializeToString()).run(["label"], {INPUT: pixels})
    assert labels.tolist() == expected.tolist()


@pytest.mark.parametrize("name", [Path("demo"), Path("demo-190")])
@pytest.mark.parametrize("layer", [1, 12])
def test_both_sets_of_heads_are_found_by_name_and_hold_the_names_they_promise(name, layer):
    exit_ = load_exits(ExitSettings((layer,), name))[0]
    ten = load_exits(ExitSettings((layer,)))[0].classes
    assert set(ten) <= set(exit_.classes) and len(exit_.classes) == (10 if name == Path("demo") else 190)


@pytest.mark.skipif(not PACK.exists(), reason="CIFAR-10 is not here: shared/data beside the repository")
def test_nothing_shipped_was_trained_on_the_names_kept_for_testing():
    kept = read_pack(PACK.parent / "tiny_imagenet" / "val_jpeg.npz")
    names = {kept.classes[label] for label in kept.unseen}
    assert len(names) == 20
    assert not names & set(load_exits(ExitSettings((5,), Path("demo-190")))[0].classes)
