"""INT8: products and their parts, ranges, outliers, what each processor gets, and which recipe is chosen."""

import copy
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tgems_edge.errors import AccuracyError, DataError
from tgems_edge.model_file.gate import INPUT
from tgems_edge.progress import Reporter
from tgems_edge.runtime.images import to_pixels
from tgems_edge.runtime.session import open_session
from tgems_export.exporting.graph.exit_graph import Cut, ExitGraph
from tgems_export.exporting.graph.onnx_graph import label_weights, to_onnx
from tgems_export.exporting.quantization.equalisation import equalise
from tgems_export.exporting.quantization.products import find_products, find_readouts
from tgems_export.exporting.quantization.ranges import BINS, METHODS, Seen, observe
from tgems_export.exporting.quantization.recipe import INTEGERS, Recipe, quantise
from tgems_export.exporting.quantization.search import LEAST_PICTURES, Limits, Quantiser, read_calibrating
from tgems_export.pictures import draw, draw_many

QUIET = Reporter(quiet=True)
TARGETS = list(INTEGERS)
REDUCED = [target for target in TARGETS if INTEGERS[target].reduced]
UNSIGNED = [target for target in TARGETS if not INTEGERS[target].signed]


@pytest.fixture(scope="module", params=["cls", "mean"])
def pool(request):
    return request.param


@pytest.fixture(scope="module")
def model(encoder, make_exit, pool):
    """The exit after block 3, in fp32."""
    return to_onnx(make_exit(encoder, 3, pool, pictures=1).graph, encoder.preprocessing.size, 18)


@pytest.fixture(scope="module")
def pixels(encoder):
    return np.stack([to_pixels(picture, encoder.preprocessing) for picture in draw_many(48)])


@pytest.fixture(scope="module")
def seen(model, pixels):
    return see(model, pixels[:32])


@pytest.fixture(scope="module")
def static(model, seen):
    """The model for each target."""
    ranges = {name: tensor.range("minmax") for name, tensor in seen.items()}
    return {target: quantise(model, Recipe(target), ranges) for target in TARGETS}


@pytest.fixture(scope="module")
def dynamic(model):
    return {target: quantise(model, Recipe(target, None), {}) for target in TARGETS}


def see(model, pixels):
    inputs = [product.input for product in find_products(model)]
    with QUIET.task("finding ranges", len(pixels)) as task:
        return observe(model, inputs, [pixels], task)


def rates(model, pixels):
    return open_session(model.SerializeToString()).run(["rates_3"], {INPUT: pixels})[0]


def constants(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def set_to(model, name, value):
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))


def norm_before(model, product):
    """The LayerNorm that gives a product its input, if one does."""
    makers = {name: node for node in model.graph.node for name in node.output}
    node = makers.get(product.input)
    while node is not None and node.op_type == "Reshape":
        node = makers.get(node.input[0])
    return node if node is not None and node.op_type == "LayerNormalization" else None


def normed(model, part):
    """A product of a part that reads a LayerNorm, and this."""
    pairs = ((product, norm_before(model, product)) for product in find_products(model))
    return next((product, norm) for product, norm in pairs if norm and product.part == part)


def with_outlier(model, part, factor):
    """The same function with one channel that much larger in front of a product of this part."""
    planted = copy.deepcopy(model)
    product, norm = normed(planted, part)
    values = constants(planted)
    for name in norm.input[1:3]:
        set_to(planted, name, values[name] * np.where(np.arange(len(values[name])) == 7, factor, 1))
    weight = values[product.weight].copy()
    weight[:, 7] /= factor
    set_to(planted, product.weight, weight)
    return planted


class TestProducts:
    def test_all_of_the_tower_is_found_and_nothing_of_the_readout(self, model, pool):
        products = find_products(model)
        parts = Counter(product.part for product in products)
        last = {"cls": 6, "mean": 5}[pool]
        assert parts == {"patch embedding": 1, "block 1": 4, "block 2": 4, "last block": last}
        rest = {node.name for node in model.graph.node if node.op_type == "Gemm"}
        rest -= {product.node for product in products}
        weights = [node.input[1] for node in model.graph.node if node.name in rest]
        assert weights == ["heads.0.jumper.weight", "heads.0.tables.weight"]

    def test_several_exits_have_a_last_block_each(self, encoder, random_head):
        cuts = [Cut(layer, "cls", random_head(encoder)) for layer in (2, 3)]
        graph = ExitGraph(encoder, cuts, encoder.text.encode(["a cat", "a dog"]))
        products = find_products(to_onnx(graph, encoder.preprocessing.size, 18))
        parts = ["patch embedding", "block 1", "last block of exit 1", "block 2", "last block of exit 2"]
        assert list(dict.fromkeys(product.part for product in products)) == parts

    def test_what_the_graph_calls_a_part_is_its_part(self):
        model = chain("anything", "else", "jumper")
        label_weights(model, {"anything": "block 5", "else": "neck"}, {"jumper": 7})
        assert [product.part for product in find_products(model)] == ["block 5", "neck"]
        assert find_readouts(model) == ["x2"]

    def test_a_weight_of_no_known_part_is_refused(self):
        with pytest.raises(ValueError, match=r"neck\.weight: a weight of no known part"):
            model = chain("neck.weight")
            label_weights(model, {}, {})
            find_products(model)


def chain(*weights):
    """A graph of Gemms with these weights."""
    nodes = [
        helper.make_node("Gemm", [f"x{i}", weight], [f"x{i + 1}"], name=f"gemm {i}", transB=1)
        for i, weight in enumerate(weights)
    ]
    values = [numpy_helper.from_array(np.eye(2, dtype=np.float32), weight) for weight in weights]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 2])]
        for name in ("x0", f"x{len(nodes)}")
    ]
    return helper.make_model(helper.make_graph(nodes, "chain", *ends, values))


def collected(*chunks):
    seen = Seen()
    for chunk in chunks:
        seen.add(np.asarray(chunk, np.float32))
    return seen


FLOATS = st.floats(-1e4, 1e4, width=32).map(lambda value: 0.0 if abs(value) < 1e-6 else value)


class TestSeen:
    @settings(max_examples=50)
    @given(arrays(np.float32, st.tuples(st.integers(2, 40), st.just(3)), elements=FLOATS), st.data())
    def test_chunks_are_as_good_as_all_at_once(self, values, data):
        where = data.draw(st.integers(1, len(values) - 1))
        whole, parts = collected(values), collected(values[:where], values[where:])
        assert (whole.low, whole.high, whole.limit) == (parts.low, parts.high, parts.limit)
        np.testing.assert_array_equal(whole.largest, parts.largest)
        # rounding may put a value on the edge of two bins into either
        below, other = np.cumsum(whole.counts), np.cumsum(parts.counts)
        assert below[-1] == other[-1] == np.count_nonzero(values)
        assert (other[:-1] <= below[1:]).all() and (below[:-1] <= other[1:]).all()

    def test_the_limit_doubles_until_it_holds_everything(self):
        seen = collected([[0.25, -0.5]])
        before = seen.limit
        seen.add(np.array([[0.25, -7.5]], np.float32))
        assert seen.limit / before == 2 ** np.ceil(np.log2(7.5 / before)) and seen.counts.sum() == 4
        edges = np.linspace(-seen.limit, seen.limit, BINS + 1)
        bins = np.repeat(np.arange(BINS), seen.counts)
        for value, found in zip((-7.5, -0.5, 0.25, 0.25), bins, strict=True):
            assert edges[found] - 1e-6 <= value <= edges[found + 1] + 1e-6

    def test_minmax_is_exact_and_holds_zero(self):
        assert collected([[0.1, 2.5]], [[3.25, 1]]).range("minmax") == (0.0, 3.25)
        assert collected([[-0.5, -2.5]]).range("minmax") == (-2.5, 0.0)

    def test_each_channel_has_its_largest_magnitude(self):
        np.testing.assert_array_equal(collected([[[1, -4], [2, 3]]], [[[-3, 0], [0, 0]]]).largest, [3, 4])

    def test_percentile_is_that_of_numpy(self):
        values = np.random.default_rng(0).uniform(-1, 3, (5000, 40)).astype(np.float32)
        seen = collected(values)
        expected = np.quantile(values, [1e-4, 1 - 1e-4])
        np.testing.assert_allclose(seen.range("percentile"), expected, atol=2 * 2 * seen.limit / BINS)

    @pytest.mark.parametrize("method", METHODS)
    def test_exact_zeros_have_no_say(self, method):
        values = np.random.default_rng(1).standard_normal((500, 40)).astype(np.float32)
        assert collected(values).range(method) == collected(values, np.zeros((9999, 40))).range(method)

    def test_entropy_cuts_off_a_far_outlier_and_never_beyond_what_was_seen(self):
        values = np.random.default_rng(2).standard_normal((5000, 40)).astype(np.float32)
        low, high = collected(values).range("entropy")
        assert values.min() <= low < -2 and 2 < high <= values.max()
        values[0, 0] = 200
        low, high = collected(values).range("entropy")
        assert low < -2 and 2 < high < 20

    @pytest.mark.parametrize("method", METHODS)
    def test_nothing_but_zeros_is_a_range_too(self, method):
        assert collected(np.zeros((3, 4))).range(method) == (0.0, 0.0)


class TestEqualise:
    @pytest.mark.parametrize("factor", [1, 60])
    def test_it_computes_the_same_with_smaller_outliers(self, model, pixels, factor):
        planted = with_outlier(model, "block 2", factor)
        before = see(planted, pixels[:8])
        equal = equalise(planted, before)
        onnx.checker.check_model(equal, full_check=True)
        expected = rates(model, pixels)
        np.testing.assert_allclose(rates(equal, pixels), expected, atol=1e-4 * np.abs(expected).max())
        if factor > 1:
            product, _ = normed(planted, "block 2")
            after = see(equal, pixels[:8])[product.input].largest
            was = before[product.input].largest
            assert after.max() / np.median(after) < 0.4 * was.max() / np.median(was)

    def test_norms_that_share_a_gain_do_not_share_a_factor(self, model, pixels):
        shared = with_outlier(model, "block 1", 30)
        norms = [norm for product in find_products(shared) if (norm := norm_before(shared, product))]
        own = list(norms[0].input[1:3])
        for norm in shared.graph.node:
            if norm.op_type == "LayerNormalization":
                norm.input[1], norm.input[2] = own
        equal = equalise(shared, see(shared, pixels[:8]))
        expected = rates(shared, pixels)
        np.testing.assert_allclose(rates(equal, pixels), expected, atol=1e-4 * np.abs(expected).max())
        assert len({norm.input[1] for norm in equal.graph.node if norm.op_type == norms[0].op_type}) > 2

    def test_a_weight_with_two_readers_is_left_alone(self, model, pixels):
        shared = copy.deepcopy(model)
        product, _ = normed(shared, "block 1")
        twin, _ = normed(shared, "block 2")
        next(node for node in shared.graph.node if node.name == twin.node).input[1] = product.weight
        equal = equalise(shared, see(shared, pixels[:8]))
        np.testing.assert_array_equal(constants(equal)[product.weight], constants(shared)[product.weight])


class TestQuantise:
    @pytest.mark.parametrize("target", TARGETS)
    @pytest.mark.parametrize("kind", ["static", "dynamic"])
    def test_it_is_a_small_model_that_says_nearly_the_same(self, request, model, pixels, kind, target):
        quantised = request.getfixturevalue(kind)[target]
        onnx.checker.check_model(quantised, full_check=True)
        assert quantised.ByteSize() < 0.4 * model.ByteSize()
        expected = rates(model, pixels)
        assert 0 < np.abs(rates(quantised, pixels) - expected).max() < 0.15 * np.ptp(expected, axis=0).max()

    @pytest.mark.parametrize("target", TARGETS)
    def test_onnxruntime_computes_every_product_in_integers(self, model, static, dynamic, target, tmp_path):
        count = len(find_products(model))
        found = Counter(optimised(static[target], tmp_path / "static.onnx"))
        assert (found["QGemm"], found["Gemm"], found["DequantizeLinear"]) == (count, 2, 0)
        found = Counter(optimised(dynamic[target], tmp_path / "dynamic.onnx"))
        assert (found["DynamicQuantizeMatMul"], found["Gemm"], found["MatMulInteger"]) == (count, 2, 0)

    @pytest.mark.parametrize("target", TARGETS)
    def test_weights_are_int8_with_a_scale_for_each_output(self, model, static, target):
        values = constants(static[target])
        for product in find_products(model):
            weight, scale, zero = (
                values[f"{product.weight}_{what}"] for what in ("quantized", "scale", "zero_point")
            )
            assert weight.dtype == np.int8 and scale.shape == zero.shape == weight.shape[:1]
            assert not zero.any() and product.weight not in values
            assert np.abs(weight.astype(int)).max() <= (64 if target in REDUCED else 127)

    @pytest.mark.parametrize("target", TARGETS)
    def test_the_readout_stays_in_floating_point(self, static, dynamic, target):
        for quantised in (static[target], dynamic[target]):
            values = constants(quantised)
            assert (
                values["heads.0.jumper.weight"].dtype == values["heads.0.tables.weight"].dtype == np.float32
            )

    def test_a_symmetric_target_has_no_zero_points(self, static):
        values = constants(static["tensorrt"])
        zeros = [value for name, value in values.items() if name.endswith("zero_point")]
        assert zeros and not any(zero.any() for zero in zeros)
        assert {zero.dtype for zero in zeros} == {np.dtype(np.int8), np.dtype(np.int32)}

    @pytest.mark.parametrize("target", TARGETS)
    def test_pixels_lose_nothing(self, static, target):
        values = constants(static[target])
        kinds = [node.op_type for node in static[target].graph.node]
        (scale, zero) = next(
            (values[node.input[1]], values[node.input[2]])
            for node in static[target].graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] not in values
        )
        if target in UNSIGNED:
            assert "Cast" not in kinds and (zero.dtype, zero) == (np.uint8, 0)
        if target != "tensorrt":
            assert scale == 1

    def test_kept_parts_stay_in_fp32(self, model, seen):
        ranges = {name: tensor.range("minmax") for name, tensor in seen.items()}
        for recipe in (
            Recipe(kept=("block 1", "patch embedding")),
            Recipe(ranges=None, kept=("last block",)),
        ):
            quantised = quantise(model, recipe, ranges)
            onnx.checker.check_model(quantised, full_check=True)
            types = {tensor.name: tensor.data_type for tensor in quantised.graph.initializer}
            for product in find_products(model):
                kept = product.part in recipe.kept
                assert (types.get(product.weight) == TensorProto.FLOAT) == kept
                assert (f"{product.weight}_quantized" in types) != kept

    def test_an_input_that_is_always_zero_can_be_quantised(self, model, seen, pixels):
        silent = find_products(model)[3].input
        ranges = {name: tensor.range("minmax") for name, tensor in seen.items()} | {silent: (0.0, 0.0)}
        for target in TARGETS:
            assert np.isfinite(rates(quantise(model, Recipe(target), ranges), pixels[:2])).all()


def optimised(model, path):
    """The operators that onnxruntime makes of it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["cls"], indirect=True)
class TestSearch:
    def test_the_best_recipe_has_the_smallest_error(self, model, pixels):
        quantiser = Quantiser(model, pixels, QUIET)
        assert quantiser.observed == len(pixels) // 2
        best = quantiser.best("generic")
        tried = [Recipe("generic", method) for method in METHODS]
        tried += [Recipe("generic", best.ranges, equalised=True)]
        errors = {recipe: quantiser.difference(quantiser.make(recipe)).error for recipe in tried}
        assert best == min(errors, key=errors.__getitem__) and 0 < errors[best] < 0.05

    def test_the_part_with_outliers_has_the_largest_error(self, model, pixels):
        planted = with_outlier(model, "block 2", 500)
        errors = Quantiser(planted, pixels, QUIET).part_errors(Recipe())
        assert next(iter(errors)) == "block 2" and list(errors.values()) == sorted(errors.values())[::-1]
        assert sorted(errors) == ["block 1", "block 2", "last block", "patch embedding"]

    def test_as_few_parts_stay_in_fp32_as_keep_the_limit(self, model, pixels):
        planted = with_outlier(model, "block 2", 5000)
        quantiser = Quantiser(planted, pixels, QUIET)
        bad = quantiser.difference(quantiser.make(Recipe())).label_flips
        good = quantiser.difference(quantiser.make(Recipe(kept=("block 2",)))).label_flips
        assert good < bad
        assert quantiser.keep_costly_parts(Recipe(), Limits(label_flips=bad)) == Recipe()
        assert quantiser.keep_costly_parts(Recipe(), Limits(label_flips=(good + bad) / 2)) == Recipe(
            kept=("block 2",)
        )
        with pytest.raises(AccuracyError, match="% of the labels of pictures that calibrate"):
            quantiser.keep_costly_parts(Recipe(), Limits(label_flips=-1))


class TestReadCalibrating:
    @pytest.fixture
    def pictures(self, tmp_path):
        """pictures(count): paths of so many drawn ones."""

        def pictures(count):
            paths = [tmp_path / f"{seed}.png" for seed in range(count)]
            for seed, path in enumerate(paths):
                draw(seed, 40, 30).save(path)
            return paths

        return pictures

    def test_all_are_read_as_the_graph_takes_them(self, encoder, pictures):
        found = read_calibrating(pictures(LEAST_PICTURES), encoder.preprocessing, QUIET)
        assert found.shape == (LEAST_PICTURES, *encoder.preprocessing.size, 3) and found.dtype == np.uint8

    def test_a_broken_one_is_left_out_with_a_warning(self, encoder, pictures, capsys):
        paths = pictures(LEAST_PICTURES + 1)
        paths[3].write_bytes(b"no picture")
        assert len(read_calibrating(paths, encoder.preprocessing, QUIET)) == LEAST_PICTURES
        assert "warning: left out: " in capsys.readouterr().err

    def test_too_few_are_refused(self, encoder, pictures):
        paths = pictures(LEAST_PICTURES - 1)
        for given_ in (paths, paths + paths[:5]):
            with pytest.raises(DataError, match=f"^{LEAST_PICTURES - 1} pictures that differ.*int8-dynamic"):
                read_calibrating(given_, encoder.preprocessing, QUIET)

    def test_pictures_of_one_colour_show_nothing(self, encoder, pictures):
        paths = pictures(2 * LEAST_PICTURES)
        for grey, path in enumerate(paths[LEAST_PICTURES - 1 :]):
            Image.new("L", (40, 30), grey).save(path)
        with pytest.raises(DataError, match=f"^{LEAST_PICTURES - 1} pictures that differ"):
            read_calibrating(paths, encoder.preprocessing, QUIET)
