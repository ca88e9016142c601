"""The Python API: load a file, classify pictures, read the result; and every file that cannot be loaded."""

import base64
import hashlib
import json
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import astuple, replace

import numpy as np
import onnxruntime
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from tgems_edge.errors import ImageError, InputError, MissingDependency, ModelFileError
from tgems_edge.machine import physical_cores
from tgems_edge.model_file.card import noise_pixels
from tgems_edge.model_file.default import built_in_model
from tgems_edge.model_file.seal import is_sealed
from tgems_edge.runtime.classifier import Classifier, load
from tgems_edge.runtime.images import decode, to_pixels
from tgems_edge.runtime.result import Result
from tgems_edge.runtime.session import open_session

GREEN = np.full((6, 10, 3), (0, 255, 0), np.uint8)
YELLOW = np.full((6, 10, 3), (255, 255, 0), np.uint8)
NAVY = np.full((6, 10, 3), (0, 0, 128), np.uint8)


@pytest.fixture(scope="module")
def pictures(draw):
    return [
        draw(seed, *size) for seed, size in enumerate([(32, 32), (57, 38), (40, 71), (9, 200), (300, 200)])
    ]


class TestBuiltInModel:
    def test_it_answers_its_own_samples(self, classifier):
        card = classifier.card
        assert {sample.kind for sample in card.samples} == {"noise", "jpeg"}
        for sample in card.samples:
            if sample.kind == "noise":
                decoded = pixels = noise_pixels(sample.content, card.preprocessing.size)
            else:
                picture = decode(base64.b64decode(sample.content))
                decoded, pixels = np.asarray(picture), to_pixels(picture, card.preprocessing)
            rates = classifier.run(pixels[None]).rates
            assert hashlib.sha256(decoded.tobytes()).hexdigest() == sample.decoded_sha256
            assert hashlib.sha256(pixels.tobytes()).hexdigest() == sample.pixels_sha256
            assert_allclose(rates[0], sample.rates, atol=1e-4)

    def test_its_digest_is_that_of_its_bytes(self):
        assert is_sealed(built_in_model())

    def test_it_keeps_to_the_contract_of_the_model_file(self):
        onnx = pytest.importorskip("onnx")
        model = onnx.load(built_in_model())
        assert model.ir_version == 8
        assert [entry.version for entry in model.opset_import if entry.domain == ""] == [18]
        assert {entry.key for entry in model.metadata_props} >= {
            *("tgems", "description", "author", "date", "version", "license", "task", "imgsz", "names")
        }

    def test_its_outputs_have_the_shapes_and_types_of_the_contract(self, classifier):
        height, width = classifier.card.preprocessing.size
        pixels = noise_pixels("batch", (3 * height, width)).reshape(3, height, width, 3)
        answers = classifier.run(pixels)
        rates, probabilities, exit_layers = answers.rates, answers.probabilities, answers.exit_layers
        assert rates.shape == probabilities.shape == (3, len(classifier.names))
        assert (rates.dtype, probabilities.dtype, exit_layers.dtype) == (np.float32, np.float32, np.int64)
        assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
        assert exit_layers.tolist() == [classifier.card.last_exit.layer] * 3


class TestDefaultModel:
    @pytest.fixture(autouse=True)
    def empty_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    def test_without_anything_it_is_the_built_in_file(self, classifier):
        assert load().card == classifier.card

    def test_a_model_in_the_working_folder_goes_before_the_built_in_file(self, colour_model):
        colour_model(name="model.onnx")
        assert load().names == ("red", "green", "blue")

    def test_the_environment_goes_before_the_working_folder(self, colour_model, monkeypatch, classifier):
        colour_model(name="model.onnx")
        monkeypatch.setenv("TGEMS_MODEL", str(built_in_model()))
        assert load().card == classifier.card

    def test_an_argument_goes_before_the_environment(self, colour_model, monkeypatch):
        monkeypatch.setenv("TGEMS_MODEL", "nowhere.onnx")
        assert load(str(colour_model())).names == ("red", "green", "blue")

    def test_an_empty_variable_is_as_good_as_none(self, monkeypatch, classifier):
        monkeypatch.setenv("TGEMS_MODEL", "")
        assert load().card == classifier.card


class TestClassify:
    def test_path_bytes_array_and_pillow_image_get_the_same_answer(self, classifier, pictures, tmp_path):
        path = tmp_path / "picture.png"
        pictures[1].save(path)
        sources = (path, str(path), path.read_bytes(), np.asarray(pictures[1]), pictures[1])
        first, *others = [classifier.classify(source) for source in sources]
        for other in others:
            assert other.label == first.label
            assert_allclose(other.rates, first.rates, atol=1e-6)

    def test_a_batch_equals_one_by_one(self, classifier, pictures):
        for together, picture in zip(classifier.classify_batch(pictures), pictures, strict=True):
            alone = classifier.classify(picture)
            assert together.label == alone.label
            assert_allclose(together.rates, alone.rates, atol=1e-5)
            assert_allclose(together.probabilities, alone.probabilities, atol=1e-4)

    def test_an_empty_batch_has_no_results(self, classifier):
        assert classifier.classify_batch([]) == []

    @pytest.mark.parametrize("batch", [1, 2, 3, 100])
    def test_each_of_many_pictures_gets_its_result_or_its_error(self, classifier, pictures, batch):
        mixed = [*pictures[:2], b"", b"nonsense", *pictures[2:]]
        results = list(classifier.classify_each(mixed, batch=batch))
        kinds = [type(result) for result in results]
        assert kinds == [Result] * 2 + [ImageError] * 2 + [Result] * 3
        expected = classifier.classify_batch(pictures)
        assert [r.label for r in results if isinstance(r, Result)] == [r.label for r in expected]

    @pytest.mark.parametrize("batch", [1, 2, 3, 5])
    def test_reading_ahead_changes_no_answer(self, classifier, pictures, batch):
        ahead = list(classifier.classify_each(pictures, batch=batch))
        one_by_one = list(classifier.classify_each(iter(pictures), batch=batch))
        for result, expected in zip(ahead, one_by_one, strict=True):
            assert_array_equal(result.rates, expected.rates)

    def test_pictures_that_come_one_by_one_are_opened_when_their_turn_comes(self, classifier, pictures):
        opened = []

        def one_by_one():
            for picture in pictures:
                opened.append(picture)
                yield picture

        results = classifier.classify_each(one_by_one(), batch=2)
        next(results)
        assert len(opened) == 2

    def test_no_more_is_read_ahead_than_the_next_batch(self, classifier, pictures, monkeypatch):
        read = []
        preprocess = classifier.preprocess
        monkeypatch.setattr(classifier, "preprocess", lambda picture: read.append(0) or preprocess(picture))
        with closing(classifier.classify_each(pictures * 4, batch=2)) as results:
            next(results)
            assert len(read) <= 4

    def test_the_thread_that_reads_ends_when_the_results_are_closed(self, classifier, pictures):
        before = threading.active_count()
        results = classifier.classify_each(pictures)
        next(results)
        assert threading.active_count() == before + 1
        results.close()
        assert threading.active_count() == before

    def test_a_single_batch_needs_no_thread(self, classifier, pictures):
        before = threading.active_count()
        for _ in classifier.classify_each(pictures, batch=len(pictures)):
            assert threading.active_count() == before

    def test_several_threads_may_share_a_classifier(self, dynamic_model):
        """Through every way to classify, where each picture has an exit of its own."""
        model = load(dynamic_model(), threads=2)
        pictures = [GREEN, NAVY, YELLOW, GREEN // 2] * 5
        expected = [model.classify(picture).label for picture in pictures]
        ways = [
            lambda: [model.classify(picture) for picture in pictures],
            lambda: model.classify_batch(pictures),
            lambda: list(model.classify_each(pictures, batch=3)),
        ]
        with ThreadPoolExecutor(4) as pool:
            for results in pool.map(lambda way: way(), ways * 8):
                assert [result.label for result in results] == expected

    def test_an_unreadable_picture_is_named(self, classifier, tmp_path):
        with pytest.raises(ImageError, match=r"missing\.jpg"):
            classifier.classify(tmp_path / "missing.jpg")

    def test_a_picture_too_long_and_thin_is_named(self, classifier, tmp_path):
        path = tmp_path / "thread.png"
        Image.new("L", (1_000_000, 1)).save(path)
        with pytest.raises(ImageError, match=r"thread\.png"):
            classifier.classify(path)


class TestResult:
    def test_the_smallest_rate_is_the_answer(self, colour_model):
        result = load(colour_model()).classify(np.full((4, 4, 3), (51, 255, 102), np.uint8))
        assert result.names == ("red", "green", "blue")
        assert (result.label, result.top1, result.exit_layer) == ("green", 1, 4)
        assert result.top5 == [1, 2, 0]
        assert_allclose(result.rates, [-0.2, -1, -0.4], rtol=1e-6)
        assert result.top1conf == pytest.approx(np.exp(2) / np.exp([0.4, 2, 0.8]).sum(), rel=1e-5)

    def test_top_has_a_probability_only_where_it_was_calibrated(self, colour_model, calibrated_card):
        plain = load(colour_model()).classify(GREEN)
        calibrated = load(colour_model(calibrated_card)).classify(GREEN)
        assert [entry["probability"] for entry in plain.top(3)] == [None] * 3
        assert [entry["probability"] for entry in calibrated.top(1)] == [calibrated.top1conf]

    def test_top_is_ordered_and_as_long_as_asked(self, classifier, pictures):
        result = classifier.classify(pictures[0])
        entries = result.top(4)
        assert [entry["index"] for entry in entries] == result.top5[:4]
        assert [entry["label"] for entry in entries] == [result.names[i] for i in result.top5[:4]]
        assert [entry["rate"] for entry in entries] == sorted(result.rates.tolist())[:4]
        assert len(result.top(99)) == len(result.names)

    @pytest.mark.parametrize(
        ("picture", "coverage", "method", "expected"),
        [
            (GREEN, 0.9, "threshold", ["green"]),
            (YELLOW, 0.8, "threshold", ["red"]),
            (YELLOW, 0.9, "threshold", ["red", "green"]),
            (YELLOW, 0.99, "threshold", ["red", "green", "blue"]),
            (YELLOW, 0.9, "adaptive", ["red"]),
            (YELLOW, 0.95, "adaptive", ["red", "green"]),
            (GREEN, 0.99, "adaptive", ["green", "red"]),
        ],
    )
    def test_a_label_set_holds_the_classes_within_the_bound(
        self, colour_model, calibrated_card, picture, coverage, method, expected
    ):
        result = load(colour_model(calibrated_card)).classify(picture)
        assert result.label_set(coverage, method) == expected

    def test_a_label_set_covers_90_per_cent_unless_asked_otherwise(self, colour_model, calibrated_card):
        result = load(colour_model(calibrated_card)).classify(YELLOW)
        assert result.label_set() == result.label_set(0.9, "threshold")

    def test_what_is_stranger_than_known_pictures_is_unknown(self, colour_model, calibrated_card):
        model = load(colour_model(calibrated_card))
        black, grey, green = (model.classify(p) for p in (GREEN * 0, GREEN // 2, GREEN))
        assert [black.is_unknown(reject) for reject in (0.01, 0.05, 0.1, 0.2)] == [True] * 4
        assert [grey.is_unknown(reject) for reject in (0.01, 0.05, 0.1, 0.2)] == [False, False, True, True]
        assert not green.is_unknown(0.2)
        assert black.is_unknown() and not grey.is_unknown()

    def test_sets_and_unknown_need_calibration(self, colour_model):
        result = load(colour_model()).classify(GREEN)
        for ask in (result.label_set, result.is_unknown):
            with pytest.raises(InputError, match="without calibration"):
                ask()

    def test_equal_rates_go_to_the_first_class(self, colour_model):
        assert load(colour_model()).classify(np.zeros((2, 2), np.uint8)).top5 == [0, 1, 2]

    def test_speed_is_positive(self, classifier, pictures):
        for result in classifier.classify_batch(pictures):
            assert all(milliseconds > 0 for milliseconds in astuple(result.speed))


class TestSeveralExits:
    def test_each_picture_of_a_batch_has_its_own_exit(self, dynamic_model):
        results = load(dynamic_model()).classify_batch([GREEN, NAVY, GREEN // 2, YELLOW])
        assert [(result.label, result.exit_layer) for result in results] == [
            *(("green", 2), ("blue", 5)),
            *(("green", 5), ("red", 2)),
        ]

    def test_a_batch_equals_one_by_one(self, dynamic_model):
        model = load(dynamic_model())
        pictures = [GREEN, NAVY, YELLOW, NAVY * 0]
        for together, picture in zip(model.classify_batch(pictures), pictures, strict=True):
            alone = model.classify(picture)
            assert (together.label, together.exit_layer) == (alone.label, alone.exit_layer)
            assert_allclose(together.rates, alone.rates, rtol=1e-6)

    def test_what_is_strange_for_its_exit_is_unknown(self, dynamic_model):
        green, navy, black = load(dynamic_model()).classify_batch([GREEN, NAVY, NAVY * 0])
        assert green.rates.min() < 2 < navy.rates.min()
        for reject in (0.01, 0.05, 0.1, 0.2):
            assert [result.is_unknown(reject) for result in (green, navy, black)] == [False, False, True]

    def test_the_bounds_of_label_sets_are_the_same_for_all_exits(self, dynamic_model):
        green, navy = load(dynamic_model()).classify_batch([GREEN, NAVY])
        assert (green.label_set(), navy.label_set()) == (["green"], ["blue"])
        assert green.label_set(0.99) == ["green", "red", "blue"]

    def test_a_block_that_is_no_exit_of_the_card_is_refused(self, dynamic_model, dynamic_card):
        early, late = dynamic_card.exits
        model = load(dynamic_model(replace(dynamic_card, exits=(replace(early, layer=3), late))))
        assert model.classify(NAVY).label == "blue"
        with pytest.raises(
            ModelFileError,
            match=r"dynamic.onnx: the graph gave an answer from block 2",
        ):
            model.classify_batch([NAVY, GREEN])

    def test_a_static_file_that_answers_from_elsewhere_is_refused(self, colour_model, colour_card):
        model = load(colour_model(replace(colour_card, exits=(replace(colour_card.last_exit, layer=5),))))
        with pytest.raises(ModelFileError, match="an answer from block 4"):
            model.classify(GREEN)


class TestSettings:
    @pytest.mark.parametrize("provider", [None, "CPU", "cpu", "CPUExecutionProvider", "cpuexecutionprovider"])
    def test_the_cpu_provider_has_several_names(self, provider):
        model = load(built_in_model(), threads=2, provider=provider)
        assert model.classify(GREEN).label
        assert model.provider == "CPU"

    @pytest.mark.parametrize("provider", ["TPU", "CUDA", "XNNPACK", "ACL", "OpenVINO", "TensorRT"])
    def test_a_provider_that_is_not_there_lists_those_that_are(self, monkeypatch, provider):
        monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
        with pytest.raises(InputError, match=f"^no provider '{provider}' in this onnxruntime; it has CPU$"):
            load(built_in_model(), provider=provider)

    @pytest.mark.parametrize("provider", ["xnnpack", "XNNPACK", "XnnpackExecutionProvider"])
    def test_a_provider_is_found_whatever_its_case(self, monkeypatch, provider):
        monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["XnnpackExecutionProvider"])
        with pytest.warns(UserWarning, match="Xnnpack"), pytest.raises(InputError, match="fell back to CPU"):
            load(built_in_model(), provider=provider)

    def test_a_provider_that_can_run_nothing_is_not_replaced_silently(self):
        if not {"AzureExecutionProvider"} < set(onnxruntime.get_available_providers()):
            pytest.skip("needs a provider that takes no node")
        if not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"):
            pytest.skip("this onnxruntime does not say which provider runs what")
        with pytest.raises(InputError, match="AzureExecutionProvider can run no part of this model"):
            load(built_in_model(), provider="azure")

    @pytest.mark.parametrize(
        ("nodes", "said"),
        [
            ({"CUDAExecutionProvider": 270, "CPUExecutionProvider": 7}, "CUDA, 7 of 277 nodes on the CPU"),
            ({"CUDAExecutionProvider": 277}, "CUDA, 0 of 277 nodes on the CPU"),
            (None, "CUDA, unknown what it left to the CPU"),
        ],
    )
    def test_what_is_left_to_the_cpu_is_said(self, monkeypatch, nodes, said):
        model = load(built_in_model())
        monkeypatch.setattr(model._session, "_providers", ["CUDAExecutionProvider", "CPUExecutionProvider"])
        monkeypatch.setattr(
            "tgems_edge.runtime.session._count_nodes", lambda session: nodes and Counter(nodes)
        )
        assert model.provider == said

    def test_a_provider_that_does_not_start_is_not_replaced_silently(self, monkeypatch):
        monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
        with pytest.warns(UserWarning, match="CUDA"), pytest.raises(InputError, match="fell back to CPU"):
            load(built_in_model(), provider="CUDA")

    @pytest.mark.parametrize(
        ("argument", "variable", "expected"), [(3, "2", 3), (None, "2", 2), (None, "", physical_cores())]
    )
    def test_threads_come_from_the_argument_the_environment_or_the_machine(
        self, monkeypatch, argument, variable, expected
    ):
        monkeypatch.setenv("TGEMS_NUM_THREADS", variable)
        session = load(built_in_model(), threads=argument)._session
        assert session.get_session_options().intra_op_num_threads == expected

    @pytest.mark.parametrize(("variable", "expected"), [(None, "0"), ("", "0"), ("0", "0"), ("1", "1")])
    def test_threads_spin_only_if_asked_to(self, monkeypatch, variable, expected):
        if variable is not None:
            monkeypatch.setenv("TGEMS_SPIN", variable)
        options = load(built_in_model())._session.get_session_options()
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == expected

    def test_nonsense_about_spinning_is_refused(self, monkeypatch):
        monkeypatch.setenv("TGEMS_SPIN", "yes")
        with pytest.raises(InputError, match=r"^TGEMS_SPIN is 'yes'; give 1, or 0"):
            load(built_in_model())

    def test_large_jpegs_are_decoded_at_reduced_scale_if_asked_to(self, draw, tmp_path):
        path = tmp_path / "photograph.jpg"
        draw(1, 1024, 1024).save(path)
        whole, reduced = (load(built_in_model(), fast_decode=fast).classify(path) for fast in (False, True))
        assert whole.label == reduced.label
        assert 0 < np.abs(whole.rates - reduced.rates).max() < 0.5

    @pytest.mark.parametrize("threads", [0, -1])
    def test_a_number_of_threads_below_one_is_refused(self, threads):
        with pytest.raises(InputError, match=f"threads is '{threads}'"):
            load(built_in_model(), threads=threads)

    @pytest.mark.parametrize("text", ["many", "-1", "2.5", "1 2"])
    def test_a_nonsense_number_of_threads_in_the_environment_is_refused(self, monkeypatch, text):
        monkeypatch.setenv("TGEMS_NUM_THREADS", text)
        with pytest.raises(InputError, match="TGEMS_NUM_THREADS"):
            load(built_in_model())

    def test_too_many_threads_are_refused(self):
        with pytest.raises(InputError):
            load(built_in_model(), threads=10**12)

    def test_a_missing_onnxruntime_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(MissingDependency, match=r"pip install 'tgems-edge\[cpu\]'"):
            load(built_in_model())


class TestRunning:
    def test_a_run_that_fails_is_one_line(self, classifier):
        with pytest.raises(ModelFileError, match=r"demo/model.onnx: could not be run \([^\n]*\); try fewer"):
            classifier.run([np.zeros((1, 2, 3), np.uint8)])

    def test_a_run_is_not_repeated_on_the_cpu(self, classifier):
        assert not classifier._session._enable_fallback


def refusal(path):
    with pytest.raises(ModelFileError) as raised:
        load(path)
    message = str(raised.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


class TestBadFiles:
    def test_a_missing_file_says_how_to_make_one(self, tmp_path):
        assert "tgems-edge export" in refusal(tmp_path / "model.onnx")

    def test_a_folder_is_refused(self, tmp_path):
        assert "a folder" in refusal(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"a shopping list\n", b"\x89PNG\r\n\x1a\n"])
    def test_a_file_that_is_no_model_is_refused(self, tmp_path, content):
        path = tmp_path / "model.onnx"
        path.write_bytes(content)
        refusal(path)

    @pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.99999])
    def test_a_truncated_model_is_refused(self, tmp_path, share):
        data = built_in_model().read_bytes()
        path = tmp_path / "model.onnx"
        path.write_bytes(data[: int(share * len(data))])
        assert "export or copy it again" in refusal(path)

    def test_a_truncated_model_is_not_called_too_new_for_its_name(self, tmp_path):
        path = tmp_path / "opset18.onnx"
        path.write_bytes(built_in_model().read_bytes()[:1000])
        assert "install a newer one" not in refusal(path)

    def test_an_onnx_file_without_a_card_is_refused(self, colour_model):
        assert "no card" in refusal(colour_model(None))

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}'])
    def test_a_broken_card_is_refused(self, colour_model, text):
        assert "card is broken" in refusal(colour_model(text))

    def test_a_card_of_a_newer_schema_says_to_upgrade(self, colour_model):
        assert "pip install --upgrade tgems-edge" in refusal(colour_model(json.dumps({"schema": 99})))

    def test_a_card_for_another_input_size_is_refused(self, colour_model, colour_card):
        other = replace(colour_card, preprocessing=replace(colour_card.preprocessing, size=(10, 6)))
        assert "not those its card implies" in refusal(colour_model(other))

    def test_a_model_with_other_outputs_is_refused(self, colour_model, rewrite):
        path = rewrite(colour_model(), lambda model: model.graph.output.pop())
        assert "not those its card implies" in refusal(path)

    def test_a_card_for_another_number_of_classes_is_refused(self, colour_model, colour_card):
        sample = replace(colour_card.samples[0], rates=(0.0, 0.0))
        other = replace(colour_card, classes=("red", "green"), samples=(sample,))
        assert "not those its card implies" in refusal(colour_model(other.to_json()))

    def test_a_model_too_new_for_this_onnxruntime_says_so(self, colour_model, rewrite):
        path = rewrite(colour_model(), lambda model: setattr(model, "ir_version", 9999))
        assert "too old" in refusal(path)

    def test_a_model_that_this_onnxruntime_cannot_run_says_so(self, tmp_path):
        onnx = pytest.importorskip("onnx")
        shape = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("Acos", ["x"], ["y"])],  # of doubles: in no runtime
            "acos",
            [shape("x", onnx.TensorProto.DOUBLE, [1])],
            [shape("y", onnx.TensorProto.DOUBLE, [1])],
        )
        path = tmp_path / "m.onnx"
        opsets = [onnx.helper.make_opsetid("", 18)]
        onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
        with pytest.raises(ModelFileError, match="cannot run it"):
            open_session(path)

    def test_the_bytes_of_a_model_can_be_loaded_too(self, colour_model):
        assert Classifier(colour_model().read_bytes()).classify(GREEN).label == "green"
