"""INT8 of convolutions: maps between them, depthwise parts, ReLUs, what stays in fp32, old runtimes."""

import copy
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tgems_edge.errors import InputError
from tgems_edge.model_file.gate import INPUT
from tgems_edge.progress import Reporter
from tgems_edge.runtime.images import to_pixels
from tgems_edge.runtime.session import open_session
from tgems_export.encoders.encoder import load_encoder
from tgems_export.exporting.graph.onnx_graph import label_weights, to_onnx
from tgems_export.exporting.quantization.convolutions import levels
from tgems_export.exporting.quantization.int8 import make_int8
from tgems_export.exporting.quantization.products import find_products
from tgems_export.exporting.quantization.ranges import observe
from tgems_export.exporting.quantization.recipe import INTEGERS, Recipe, quantise
from tgems_export.exporting.quantization.search import LEAST_PICTURES, Limits, Quantiser
from tgems_export.exporting.settings import GraphSettings, Int8Settings
from tgems_export.pictures import draw_many

QUIET = Reporter(quiet=True)
TARGETS = list(INTEGERS)
X86 = [target for target in TARGETS if not INTEGERS[target].signed_maps]  # what onnxruntime fuses on any CPU
ASYMMETRIC = [target for target in TARGETS if not INTEGERS[target].symmetric]
SIZE = 32
WIDTH = 16


class Net:
    """A tower of convolutions under construction, each a part of its own, and a head of one matrix."""

    def __init__(self):
        self.random = np.random.default_rng(0)
        self.nodes, self.parts = [], {}
        self.constants = [numpy_helper.from_array(np.array([2, 3]), "axes")]
        self.add("Cast", [INPUT], "floats", to=TensorProto.FLOAT)
        self.last = self.add("Transpose", ["floats"], "image", perm=[0, 3, 1, 2])
        self.channels = 3

    def add(self, operator, inputs, output, **attributes):
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"node {output}", **attributes))
        return output

    def constant(self, name, value):
        self.constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def conv(self, part, channels=WIDTH, size=1, *, groups=1, gain=1.4, source=None, bias=True):
        """A convolution of the last map; channel i of a depthwise one is i times louder, as they are."""
        shape = (channels, self.channels // groups, size, size)
        weight = self.random.standard_normal(shape) * gain / np.sqrt(np.prod(shape[1:]))
        if groups > 1:
            weight *= np.geomspace(0.02, 2, channels).reshape(-1, 1, 1, 1)
        if self.last == "image":
            weight /= 128
        name = f"conv{len(self.parts)}"
        self.parts[self.constant(f"{name}.weight", weight)] = part
        inputs = [source or self.last, f"{name}.weight"]
        if bias:
            inputs.append(self.constant(f"{name}.bias", self.random.standard_normal(channels) * 0.2))
        self.last = self.add("Conv", inputs, name, group=groups, pads=[size // 2] * 4)
        self.channels = channels
        return self

    def relu6(self):
        if not any(tensor.name == "six" for tensor in self.constants):
            self.constant("zero", 0), self.constant("six", 6)
        self.last = self.add("Clip", [self.last, "zero", "six"], f"{self.last}.relu6")
        return self

    def apply(self, operator, *others):
        self.last = self.add(operator, [self.last, *others], f"{self.last}.{operator.lower()}")
        return self

    def model(self, classes=5, opset=18):
        nodes, constants = list(self.nodes), list(self.constants)
        constants += [
            numpy_helper.from_array(
                self.random.standard_normal((classes, self.channels)).astype(np.float32), "head.weight"
            ),
        ]
        nodes.append(helper.make_node("ReduceMean", [self.last, "axes"], ["pooled"], keepdims=0))
        nodes.append(helper.make_node("Gemm", ["pooled", "head.weight"], ["rates_1"], name="head", transB=1))
        graph = helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["B", SIZE, SIZE, 3])],
            [helper.make_tensor_value_info("rates_1", TensorProto.FLOAT, ["B", classes])],
            constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        label_weights(model, self.parts, {"head.weight": 1})
        onnx.checker.check_model(model, full_check=True)
        return model


def inverted_residual():
    """Stem, depthwise and pointwise block, and one with a sum, as in MobileNetV2 and EfficientNet-Lite."""
    net = Net().conv("stem", size=3).relu6()
    net.conv("block 1", size=3, groups=WIDTH).relu6().conv("block 1")
    kept = net.last
    net.conv("block 2", 2 * WIDTH).relu6().conv("block 2", 2 * WIDTH, 3, groups=2 * WIDTH).relu6()
    return net.conv("block 2").apply("Add", kept).conv("block 3", 2 * WIDTH, bias=False).apply("Relu")


@pytest.fixture(scope="module")
def pixels():
    pictures = [picture.convert("RGB").resize((SIZE, SIZE)) for picture in draw_many(48)]
    return np.stack([np.asarray(picture) for picture in pictures])


@pytest.fixture(scope="module")
def model():
    return inverted_residual().model()


@pytest.fixture(scope="module")
def ranges(model, pixels):
    return see(model, pixels)


@pytest.fixture(scope="module")
def quantised(model, ranges):
    return {target: quantise(model, Recipe(target), ranges) for target in TARGETS}


def seen(model, pixels):
    names = [name for product in find_products(model) for name in product.activations]
    with QUIET.task("finding ranges", len(pixels)) as task:
        return observe(model, names, [pixels], task)


def see(model, pixels):
    return {name: tensor.range("minmax") for name, tensor in seen(model, pixels).items()}


def rates(model, pixels):
    return open_session(model.SerializeToString()).run(["rates_1"], {INPUT: pixels})[0]


def error(model, other, pixels):
    expected = rates(model, pixels)
    return float(((rates(other, pixels) - expected) ** 2).mean() / expected.var())


def constants(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def optimised(model, path, level=onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL):
    """Counts of the operators that onnxruntime makes of it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(path).graph.node)


class TestProducts:
    def test_depthwise_convolutions_are_parts_of_their_own(self, model):
        parts = ["stem", "block 1 depthwise", "block 1", "block 2", "block 2 depthwise", "block 3"]
        assert list(dict.fromkeys(product.part for product in find_products(model))) == parts

    def test_the_output_is_that_of_the_relu_behind_it(self, model):
        outputs = [product.output for product in find_products(model)]
        relus = ["conv0.relu6", "conv1.relu6", "conv2", "conv3.relu6", "conv4.relu6", "conv5"]
        assert outputs == [*relus, "conv6.relu"]

    def test_groups_of_several_channels_are_none(self):
        net = Net().conv("stem", size=3).conv("grouped", 2 * WIDTH, 3, groups=WIDTH).conv("last")
        assert [product.part for product in find_products(net.model())] == ["stem", "last"]

    def test_a_weight_that_the_exporter_renamed_belongs_to_the_part_before_it(self):
        net = Net().conv("stem", size=3).conv("block 1", size=3, groups=WIDTH).conv("block 1")
        del net.parts["conv2.weight"]
        parts = [product.part for product in find_products(net.model())]
        assert parts == ["stem", "block 1 depthwise", "block 1"]

    def test_the_first_weight_must_have_a_part(self):
        net = Net().conv("stem")
        net.parts.clear()
        with pytest.raises(ValueError, match=r"conv0\.weight: a weight of no known part"):
            find_products(net.model())

    def test_a_clip_that_zero_does_not_pass_is_no_range(self):
        net = Net().conv("stem")
        net.constant("one", 1)
        net.last = net.add("Clip", [net.last, "one"], "above one")
        assert [product.output for product in find_products(net.model())] == ["conv0"]


class TestLevels:
    @pytest.mark.parametrize("signed", [False, True])
    @pytest.mark.parametrize("kept", [(0.0, 6.0), (-1.0, 3.0), (-2.0, 0.0), (0.0, 0.0)])
    def test_they_span_the_range_and_hold_zero(self, kept, signed):
        held = levels(kept, signed=signed, symmetric=False)
        low, high = held.bounds
        assert low <= 0 <= high
        np.testing.assert_allclose((low, high), kept, atol=float(held.scale) / 2 + 1e-27)

    def test_symmetric_ones_have_no_zero_point(self):
        held = levels((-1.0, 2.0), signed=True, symmetric=True)
        assert held.zero == 0 and held.bounds[1] == pytest.approx(2)


class TestQuantise:
    @pytest.mark.parametrize("target", TARGETS)
    def test_it_says_nearly_the_same(self, model, quantised, pixels, target):
        onnx.checker.check_model(quantised[target], full_check=True)
        assert 0 < error(model, quantised[target], pixels) < 0.02

    @pytest.mark.parametrize("target", X86)
    def test_every_convolution_and_sum_is_computed_in_integers(self, quantised, target, tmp_path):
        found = optimised(quantised[target], tmp_path / "model.onnx")
        assert (found["QLinearConv"], found["QLinearAdd"]) == (7, 1)
        assert not {"Conv", "FusedConv", "Clip", "Relu"} & found.keys()

    @pytest.mark.parametrize("target", TARGETS)
    def test_no_clip_is_left_where_a_range_does_its_work(self, quantised, target):
        clips = [node.op_type for node in quantised[target].graph.node if node.op_type in ("Clip", "Relu")]
        assert len(clips) == (0 if target in ASYMMETRIC else 5)

    @pytest.mark.parametrize("batch", [1, 3, 7])
    def test_any_batch(self, quantised, pixels, batch):
        together = rates(quantised["generic"], pixels[:batch])
        alone = np.concatenate([rates(quantised["generic"], pixels[i : i + 1]) for i in range(batch)])
        np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("target", TARGETS)
    def test_default_operators_of_an_old_version(self, quantised, target):
        assert {node.domain for node in quantised[target].graph.node} == {""}
        assert [(opset.domain, opset.version) for opset in quantised[target].opset_import] == [("", 18)]
        assert quantised[target].ir_version == 8

    @pytest.mark.parametrize("target", TARGETS)
    def test_weights_have_a_scale_for_each_channel_and_biases_32_bits(self, quantised, target):
        values = constants(quantised[target])
        weights = {name: value for name, value in values.items() if name.endswith("weight_quantized")}
        assert len(weights) == 7 and {value.dtype for value in weights.values()} == {np.dtype(np.int8)}
        for name, value in weights.items():
            assert values[name.replace("_quantized", "_scale")].shape == (len(value),)
            reduced = INTEGERS[target].reduced and value.shape[1] > 1
            assert np.abs(value.astype(int)).reshape(len(value), -1).max(1).min() == (64 if reduced else 127)
        biases = [value for name, value in values.items() if name.endswith("bias_quantized")]
        assert len(biases) == 7 and {value.dtype for value in biases} == {np.dtype(np.int32)}
        assert not [name for name in values if name.endswith((".weight", ".bias")) and "head" not in name]

    def test_pixels_lose_nothing(self, quantised):
        values = constants(quantised["generic"])
        assert (values["image_scale"], values["image_zero_point"]) == (1, 0)

    @pytest.mark.parametrize("target", TARGETS)
    def test_parts_that_are_kept_stay_in_fp32_in_onnxruntime_too(self, model, ranges, target, tmp_path):
        kept = quantise(model, Recipe(target, kept=("block 1 depthwise", "block 2 depthwise")), ranges)
        onnx.checker.check_model(kept, full_check=True)
        values = constants(kept)
        assert values["conv1.weight"].dtype == values["conv4.weight"].dtype == np.float32
        found = optimised(kept, tmp_path / "all.onnx")
        assert found["Conv"] + found["FusedConv"] == 2 or target not in X86
        # onnxruntime may quantize weights by itself while it loads a file.
        optimised(kept, tmp_path / "basic.onnx", onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)
        loaded = constants(onnx.load(tmp_path / "basic.onnx"))
        for name in ("conv1.weight", "conv4.weight"):
            np.testing.assert_array_equal(loaded[name], values[name])

    def test_a_depthwise_convolution_with_channels_that_differ_is_the_part_to_keep(self, model, pixels):
        uneven = copy.deepcopy(model)
        for tensor in uneven.graph.initializer:
            if tensor.name in ("conv4.weight", "conv4.bias"):
                value = numpy_helper.to_array(tensor).copy()
                value[0] *= 400
                tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
            elif tensor.name == "six":
                tensor.CopyFrom(numpy_helper.from_array(np.array(1e4, np.float32), "six"))
            elif tensor.name == "conv5.weight":
                value = numpy_helper.to_array(tensor).copy()
                value[:, 0] /= 400
                tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        quantiser = Quantiser(uneven, pixels, QUIET)
        recipe = quantiser.best("generic")
        assert not recipe.equalised  # no LayerNorm
        errors = quantiser.part_errors(recipe)
        assert "block 2 depthwise" in list(errors)[:2] and len(errors) == 6
        flips = quantiser.difference(quantiser.make(recipe)).label_flips
        assert quantiser.keep_costly_parts(recipe, Limits(label_flips=flips)) == recipe

    def test_a_bias_that_its_channel_cannot_hold_coarsens_the_channel(self, pixels):
        net = Net().conv("stem", size=3).apply("Relu").conv("block 1").apply("Relu")
        model = net.model()
        for tensor in model.graph.initializer:
            if tensor.name == "conv1.weight":
                value = numpy_helper.to_array(tensor).copy()
                value[0] = 1e-12
                tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        assert error(model, quantise(model, Recipe(), see(model, pixels)), pixels) < 0.02

    @pytest.mark.parametrize("target", ASYMMETRIC)
    def test_biases_make_up_for_what_rounding_shifts(self, pixels, target):
        model = Net().conv("stem", bias=False).model()
        for tensor in model.graph.initializer:
            if tensor.name == "conv0.weight":  # most weights are a third of a level, so they round to zero
                value = np.where(numpy_helper.to_array(tensor) > 0, 0.01, 0.01 / 300).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        means = {name: tensor.means for name, tensor in seen(model, pixels).items()}
        np.testing.assert_allclose(means["image"], pixels.mean((0, 1, 2)))
        ranges, expected = see(model, pixels), rates(model, pixels)
        shifts = [
            np.abs((rates(quantise(model, Recipe(target), ranges, given), pixels) - expected).mean(0)).mean()
            for given in (means, None)
        ]
        assert shifts[0] < 0.3 * shifts[1]

    def test_a_hard_swish_and_a_gate_read_maps_and_give_maps(self, pixels, tmp_path):
        net = Net().conv("stem", size=3).apply("HardSwish").conv("block 1", size=3, groups=WIDTH)
        gated = net.apply("HardSwish").last
        net.last = net.add("ReduceMean", [gated, "axes"], "squeezed")
        net.conv("gate", 8).apply("Relu").conv("gate").apply("HardSigmoid").apply("Mul", gated).conv("last")
        model = net.model()
        quantised = quantise(model, Recipe(), see(model, pixels))
        onnx.checker.check_model(quantised, full_check=True)
        assert error(model, quantised, pixels) < 0.05
        assert optimised(quantised, tmp_path / "model.onnx")["QLinearConv"] == 5
        low = levels_of(quantised, "conv0")[0]
        assert low >= -3.1  # a hard-swish is zero below -3

    def test_an_activation_that_is_always_zero_can_be_quantised(self, model, ranges, pixels):
        silent = ranges | {"conv3.relu6": (0.0, 0.0)}
        for target in TARGETS:
            assert np.isfinite(rates(quantise(model, Recipe(target), silent), pixels[:2])).all()


def levels_of(model, name):
    """The smallest and the largest value of a quantized map."""
    values = constants(model)
    scale, zero = float(values[f"{name}_scale"]), int(values[f"{name}_zero_point"])
    kind = np.iinfo(values[f"{name}_zero_point"].dtype)
    return scale * (kind.min - zero), scale * (kind.max - zero)


class TestMatrices:
    def test_a_matmul_of_a_map_of_tokens_is_a_product_too(self, pixels, tmp_path):
        net = Net().conv("stem", size=3)
        net.add("Transpose", [net.last], "tokens", perm=[0, 2, 3, 1])
        net.parts[net.constant("mixer", net.random.standard_normal((WIDTH, WIDTH)) / 4)] = "block 1"
        net.add("MatMul", ["tokens", "mixer"], "mixed")
        net.last = net.add("Transpose", ["mixed"], "map", perm=[0, 3, 1, 2])
        model = net.model()
        assert [product.operator for product in find_products(model)] == ["Conv", "MatMul"]
        quantised = quantise(model, Recipe(), see(model, pixels))
        onnx.checker.check_model(quantised, full_check=True)
        assert error(model, quantised, pixels) < 0.02
        assert constants(quantised)["mixer_quantized"].dtype == np.int8
        assert "MatMul" not in optimised(quantised, tmp_path / "model.onnx")


def test_int8_dynamic_of_convolutions_alone_is_refused(model):
    with pytest.raises(InputError, match=r"^--precision int8-dynamic: .* give --precision int8$"):
        make_int8(model, GraphSettings(precision="int8-dynamic"), Int8Settings(), None, None, None, QUIET)


@pytest.mark.slow
def test_an_exit_of_an_efficientnet_is_computed_in_integers(tiny, make_exit, tmp_path):
    vision = {"timm_model_name": "tf_efficientnet_lite0", "timm_pool": "avg", "timm_proj": "linear"}
    encoder = load_encoder(tiny("tiny-lite", vision | {"image_size": 64}, embed_dim=16), "random")
    model = to_onnx(make_exit(encoder, 4, "mean", pictures=1).graph, encoder.preprocessing.size, 18)
    products = find_products(model)
    assert {"stem", "block 1 depthwise", "block 2.1 depthwise"} <= {product.part for product in products}
    pixels = np.stack([to_pixels(picture, encoder.preprocessing) for picture in draw_many(LEAST_PICTURES)])
    quantiser = Quantiser(model, pixels, QUIET)
    quantised = quantiser.make(Recipe())
    assert quantiser.difference(quantised).error < 0.01
    found = optimised(quantised, tmp_path / "model.onnx")
    assert found["QLinearConv"] == len(products) and not {"Conv", "FusedConv", "Clip"} & found.keys()
