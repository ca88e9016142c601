"""Several exits in one file: every picture gets its own first exit, and gates are what the maths says."""

import itertools
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from tgems_edge.errors import InputError
from tgems_edge.maths.rates import posterior
from tgems_edge.model_file.gate import INPUT, OUTPUTS
from tgems_edge.runtime.images import to_pixels
from tgems_edge.runtime.session import open_session
from tgems_export.encoders.encoder import load_encoder
from tgems_export.exporting.dynamic import gates
from tgems_export.exporting.dynamic.gates import (
    choose_thresholds,
    drop_noisy,
    exits_taken,
    fit_gate,
    fold_threshold,
    inr,
)
from tgems_export.exporting.graph.assembly import flat, nested, set_gate, split
from tgems_export.exporting.graph.exit_graph import Cut, ExitGraph
from tgems_export.exporting.graph.onnx_graph import IR_VERSION, set_temperature, to_onnx
from tgems_export.pictures import draw_many

LAYERS = (1, 2, 3)
PICTURES = 16
K = 16


class Exits:
    """Three exits with random heads, their ONNX graph, and pictures for which gates leave a third each."""

    def __init__(self, encoder, pools, head):
        self.encoder = encoder
        self.parts = [Cut(layer, pool, head) for layer, pool in zip(LAYERS, pools, strict=True)]
        self.text = encoder.text.encode(["a cat", "a dog", "a truck"])
        self.size = encoder.preprocessing.size
        self.graph = ExitGraph(encoder, self.parts, self.text)
        self.model = to_onnx(self.graph, self.size, 18)
        self.pixels = np.stack([to_pixels(p, encoder.preprocessing) for p in draw_many(PICTURES)])
        self.model = self.gated(self.model)
        self.raw = run(self.model, self.pixels)

    def gated(self, model):
        """The same graph, whose gates let two thirds and then half go on, by margin and by spread."""
        gated = onnx.ModelProto()
        gated.CopyFrom(model)
        raw = run(gated, self.pixels)
        best = np.sort(raw["probabilities_1"], 1)
        set_gate(gated, 1, [0.3, 1, 0], -between(0.3 * best[:, -1] + best[:, -1] - best[:, -2], 2 / 3))
        going = raw["spread_2"][run(gated, self.pixels)["go_on_1"]]
        set_gate(gated, 2, [0, 0, 1e-3], -1e-3 * between(going, 1 / 2))
        return gated

    def expected(self, pixels, raw=None):
        """The answer of each picture's first exit, put together outside the graph."""
        raw = raw or run(self.model, pixels)
        taken = exits_taken([raw[f"go_on_{layer}"] for layer in LAYERS[:-1]])
        rates, probabilities = (
            np.stack([raw[f"{what}_{layer}"] for layer in LAYERS])[taken, range(len(pixels))]
            for what in ("rates", "probabilities")
        )
        return [rates, probabilities, rates.argmin(1), np.array(LAYERS)[taken]]


def between(values, share):
    """A number that a share of values is below, away from all of them."""
    values = np.sort(values)
    place = round(share * len(values))
    return float(values[place - 1 : place + 1].mean())


def run(model, pixels):
    session = open_session(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {INPUT: pixels}), strict=True))


def opened(model):
    """A session of the model, which is checked and of the IR that files have."""
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return open_session(model.SerializeToString())


def assert_same_answers(ours, reference, tolerance=1e-5):
    assert_allclose(ours[0], reference[0], rtol=tolerance, atol=tolerance)
    assert_allclose(ours[1], reference[1], rtol=tolerance, atol=tolerance)
    assert_array_equal(ours[2], reference[2])
    assert_array_equal(ours[3], reference[3])


POOLS = {"cls": ["cls"] * 3, "mean": ["mean"] * 3}


@pytest.fixture(scope="module", params=POOLS.values(), ids=POOLS)
def exits(request, tiny, random_head):
    encoder = load_encoder(tiny("tiny-exits", {"layers": 4, "width": 64}), "random")
    return Exits(encoder, request.param, random_head(encoder, K))


@pytest.fixture(scope="module")
def quantised(exits, tmp_path_factory):
    """Its graph with integer products, as onnxruntime quantises it, and gates of its own."""

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.batches = iter([exits.pixels])

        def get_next(self):
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch}

    folder = tmp_path_factory.mktemp("quantised")
    onnx.save(exits.model, folder / "float.onnx")
    quantize_static(
        folder / "float.onnx",
        folder / "int8.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        op_types_to_quantize=["MatMul", "Gemm"],
    )
    return exits.gated(onnx.load(folder / "int8.onnx"))


def test_every_exit_says_what_it_says_in_a_file_of_its_own(exits):
    pixels = torch.from_numpy(exits.pixels)
    for part in exits.parts:
        alone = ExitGraph(exits.encoder, [part], exits.text)(pixels)[0]
        assert_allclose(exits.raw[f"rates_{part.layer}"], alone, rtol=1e-5, atol=1e-5)


def test_torch_and_onnx_agree_on_everything_and_constants_keep_their_names(exits):
    constants = {name for name, _ in exits.graph.named_buffers(recurse=False)}
    assert len(constants) == 3 + 2 * 2
    assert constants <= {tensor.name for tensor in exits.model.graph.initializer}
    answers = dict(zip(exits.graph.outputs, exits.graph(torch.from_numpy(exits.pixels)), strict=True))
    assert list(answers) == list(exits.raw)
    for name in answers.keys() - {"go_on_1", "go_on_2"}:  # whose gates were set in ONNX alone
        assert_allclose(exits.raw[name], answers[name], rtol=1e-4, atol=1e-5)


def test_spread_is_measured_on_the_tokens_that_are_there(exits):
    states = exits.graph.tower.states(torch.from_numpy(exits.pixels))
    tokens = next(states)
    if exits.parts[0].pool == "mean":
        tokens = next(states)
    patches = tokens[1:].numpy()
    distances = np.square(patches - patches.mean(0)).sum(2)
    assert_allclose(exits.raw["spread_1"], distances.mean(0), rtol=1e-5)


def test_temperature_of_each_exit_can_be_set(exits):
    model = onnx.ModelProto()
    model.CopyFrom(exits.model)
    for layer in LAYERS:
        set_temperature(model, layer, K, 1 + layer)
    raw = run(model, exits.pixels)
    for layer in LAYERS:
        expected = posterior(raw[f"rates_{layer}"], K, 1 + layer)
        assert_allclose(raw[f"probabilities_{layer}"], expected, rtol=1e-4)


@pytest.mark.parametrize("form", [flat, nested])
def test_each_picture_has_the_answer_of_its_own_first_exit(exits, form):
    session = opened(form(exits.model, LAYERS))
    assert set(exits.expected(exits.pixels)[3]) == set(LAYERS)
    for batch in (1, 7, PICTURES):
        ours = session.run(OUTPUTS, {INPUT: exits.pixels[:batch]})
        assert_same_answers(ours, exits.expected(exits.pixels[:batch]))
        assert [answer.dtype for answer in ours] == [np.float32, np.float32, np.int64, np.int64]
    alone = [session.run(OUTPUTS, {INPUT: exits.pixels[i : i + 1]}) for i in range(PICTURES)]
    assert_same_answers([np.concatenate(answers) for answers in zip(*alone, strict=True)], ours)


@pytest.mark.parametrize("form", [flat, nested])
def test_both_forms_have_the_interface_of_every_file(exits, form):
    model = form(exits.model, LAYERS)
    shapes = {
        value.name: [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
        for value in [*model.graph.input, *model.graph.output]
    }
    expected = {"rates": ["B", 3], "probabilities": ["B", 3], "label": ["B"], "exit_layer": ["B"]}
    assert shapes == {INPUT: ["B", *exits.size, 3]} | expected


def branches(graph):
    """The branches of the one `If` of a graph, by name; none without one."""
    for node in graph.node:
        if node.op_type == "If":
            return {attribute.name: attribute.g for attribute in node.attribute}
    return {}


def test_what_is_behind_an_exit_and_its_constants_lie_in_the_branch(exits):
    graph = nested(exits.model, LAYERS).graph
    depths = []
    while graph:
        depths.append(graph)
        graph = branches(graph).get("then_branch")
    assert len(depths) == len(LAYERS)
    held = [{tensor.name for tensor in graph.initializer} for graph in depths]
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(held, 2))
    for number, layer in enumerate(LAYERS):
        assert f"posterior_scale_{layer}" in held[number]
    assert any("tower.steps.1." in name for name in held[1] | held[2])
    assert not any("tower.steps.1." in name for name in held[0])
    assert all(node.op_type == "Identity" for node in branches(depths[0])["else_branch"].node)


def poisoned(model, layer):
    """The graph, nested, where what is behind an exit fails as soon as it runs."""
    broken = nested(model, LAYERS)
    graph = broken.graph
    while (branch := branches(graph)["then_branch"]).name != f"behind_{layer}":
        graph = branch
    number = LAYERS[LAYERS.index(layer) + 1]
    where = next(i for i, node in enumerate(branch.node) if f"rates_{number}" in node.output)
    branch.node[where].output[0] = "sound"
    shape = onnx.helper.make_node("Constant", [], ["three_two_one"], value_ints=[3, 2, 1, 7])
    fail = onnx.helper.make_node("Reshape", ["sound", "three_two_one"], ["unsound"])
    flatten = onnx.helper.make_node("Reshape", ["unsound", "as_it_was"], [f"rates_{number}"])
    as_it_was = onnx.helper.make_node("Constant", [], ["as_it_was"], value_ints=[-1, 3])
    for node in (flatten, as_it_was, fail, shape):
        branch.node.insert(where + 1, node)
    return opened(broken)


def test_nothing_behind_the_exit_runs_unless_a_picture_goes_on(exits):
    layer = exits.expected(exits.pixels)[3]
    sure, unsure = exits.pixels[layer == 1], exits.pixels[layer == 2]
    session = poisoned(exits.model, 1)
    assert_same_answers(session.run(OUTPUTS, {INPUT: sure}), exits.expected(sure))
    with pytest.raises(Exception, match="Reshape"):
        session.run(OUTPUTS, {INPUT: np.concatenate([sure, unsure[:1]])})


def test_a_picture_that_has_left_opens_no_later_gate(exits):
    layer = exits.expected(exits.pixels)[3]
    would_go_on = (layer == 1) & exits.raw["go_on_2"]
    assert would_go_on.any() and (layer == 2).any()
    pixels = exits.pixels[would_go_on | (layer == 2)]
    session = poisoned(exits.model, 2)
    assert_same_answers(session.run(OUTPUTS, {INPUT: pixels}), exits.expected(pixels))


def test_a_quantised_graph_nests_as_well_and_says_the_same(exits, quantised):
    whole, branched = (opened(form(quantised, LAYERS)) for form in (flat, nested))
    raw = run(quantised, exits.pixels)
    assert np.abs(raw["rates_3"] - exits.raw["rates_3"]).max() > 1e-4
    reference = exits.expected(exits.pixels, raw)
    assert set(reference[3]) == set(LAYERS)
    for session in (whole, branched):
        assert_same_answers(session.run(OUTPUTS, {INPUT: exits.pixels}), reference, tolerance=1e-7)


def products(model, folder):
    """Count products of matrices by operator, as onnxruntime runs them."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    pending, found = [onnx.load(options.optimized_model_filepath).graph], Counter()
    while pending:
        graph = pending.pop()
        found.update(
            node.op_type for node in graph.node if "MatMul" in node.op_type or "Gemm" in node.op_type
        )
        pending += branches(graph).values()
    return found


def test_what_is_multiplied_in_integers_still_is_in_a_branch(quantised, tmp_path):
    found = products(nested(quantised, LAYERS), tmp_path)
    assert found == products(flat(quantised, LAYERS), tmp_path)
    assert found["QGemm"] > 10 and not found["Gemm"]


def test_segments_of_a_quantised_graph_run_one_after_the_other_are_the_nested_one(exits, quantised):
    reference = exits.expected(exits.pixels, run_segments(split(quantised, LAYERS), exits.pixels))
    ours = opened(nested(quantised, LAYERS)).run(OUTPUTS, {INPUT: exits.pixels})
    assert_same_answers(ours, reference, tolerance=1e-7)


def run_segments(models, pixels):
    known = {INPUT: pixels}
    for model in models:
        session = opened(model)
        names = [output.name for output in session.get_outputs()]
        inputs = {value.name: known[value.name] for value in session.get_inputs()}
        known |= dict(zip(names, session.run(names, inputs), strict=True))
    return known


def test_operations_grow_with_the_exit_and_an_early_one_costs_what_it_costs_alone(encoder, random_head):
    text, head = encoder.text.encode(["a", "b"]), random_head(encoder)
    for pool in encoder.tower.pools:
        cuts = [Cut(layer, pool, head) for layer in (2, 4, 5)]
        first, second, last = ExitGraph(encoder, cuts, text).operations
        assert first < second < last
        (alone,) = ExitGraph(encoder, cuts[:1], text).operations
        if pool == "cls":
            assert first == alone
        else:  # which has no use for the tokens behind its block, at whose spread a gate looks
            assert alone < first < 1.3 * alone


def logistic(seed, n, weights, bias):
    """Features of unlike sizes, and targets that follow a gate of standardised ones."""
    rng = np.random.default_rng(seed)
    standard = rng.normal(size=(n, 3))
    target = rng.random(n) < 1 / (1 + np.exp(-(standard @ weights + bias)))
    return standard * [0.1, 0.2, 300] + [0.7, 0.4, 2000], target


def test_a_gate_finds_the_weights_that_made_its_target():
    weights, bias = np.array([2.0, -1.0, 0.5]), 0.7
    fit = fit_gate(*logistic(0, 40_000, weights, bias))
    assert_allclose([*fit.weights, fit.bias], [*weights, bias], atol=0.06)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 0.92, 1.0])
def test_a_folded_gate_decides_as_its_scores_do(threshold):
    features, target = logistic(1, 500, np.array([1.0, 2.0, -1.0]), -0.5)
    fit = fit_gate(features, target)
    weight, bias = fold_threshold(*fit.raw(), threshold)
    assert_array_equal(features @ weight + bias < 0, fit.scores(features) < threshold)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_thresholds_are_shares(threshold):
    fit = fit_gate(*logistic(2, 50, np.ones(3), 0.0))
    with pytest.raises(ValueError, match="outside 0 to 1"):
        fold_threshold(*fit.raw(), threshold)


def test_gates_of_separable_constant_or_one_sided_pictures_are_finite():
    features, _ = logistic(3, 200, np.ones(3), 0.0)
    features[:, 1] = 0.3
    for target in (features[:, 0] > 0.7, np.ones(200, bool), np.zeros(200, bool)):
        fit = fit_gate(features, target)
        weight, bias = fold_threshold(*fit.raw(), 0.4)
        assert np.isfinite([*weight, bias]).all() and abs(fit.weights[1]) < 1e-6
        assert ((fit.scores(features) >= 0.5) == target).mean() > 0.97
    features[:, 0] += 1e6
    certain = fit_gate(*logistic(3, 200, np.ones(3), 0.0)).scores(features)
    assert (certain < 1).all()  # so nothing leaves at a threshold of 1


def test_features_are_confidence_margin_and_spread():
    probabilities = np.array([[0.2, 0.7, 0.1], [0.4, 0.3, 0.3]], np.float32)
    found = gates.features(probabilities, np.array([5.0, 6.0], np.float32))
    assert_allclose(found, [[0.7, 0.5, 5], [0.4, 0.1, 6]], rtol=1e-6)


def test_a_picture_takes_the_first_exit_that_does_not_let_it_go_on():
    go_on = [np.array([True, False, True, False]), np.array([True, True, False, False])]
    assert exits_taken(go_on).tolist() == [2, 0, 1, 0]


def outcome(scores, correct, operations, thresholds):
    """Right answers, and operations of all pictures together."""
    taken = exits_taken([score < threshold for score, threshold in zip(scores, thresholds, strict=True)])
    right = np.array(correct)[taken, range(len(taken))].sum()
    return int(right), np.array(operations)[taken].sum()


def problem(seed, exits, n):
    rng = np.random.default_rng(seed)
    scores = list(rng.random((exits - 1, n)))
    correct = list(rng.random((exits, n)) < np.linspace(0.4, 0.8, exits)[:, None])
    return scores, correct, np.sort(rng.uniform(0.1, 1, exits))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 3), st.integers(1, 12), st.floats(0, 1))
def test_thresholds_are_the_best_of_all_combinations(seed, exits, n, generosity):
    scores, correct, operations = problem(seed, exits, n)
    budget = operations[0] + generosity * (operations[-1] - operations[0])
    thresholds = choose_thresholds(scores, correct, operations, budget)
    outcomes = [
        outcome(scores, correct, operations, combination)
        for combination in itertools.product(gates.CANDIDATES, repeat=exits - 1)
    ]
    best = max(right for right, took in outcomes if took <= n * budget + 1e-9)
    right, took = outcome(scores, correct, operations, thresholds)
    assert right == best and took <= n * budget + 1e-9
    assert took <= min(took for right, took in outcomes if right == best) + 1e-9


def test_with_many_gates_pairs_come_close_to_all_combinations(monkeypatch):
    scores, correct, operations = problem(5, 5, 60)
    budget = operations.mean()
    found, took = outcome(scores, correct, operations, choose_thresholds(scores, correct, operations, budget))
    monkeypatch.setattr(gates, "EXACT_GATES", 4)
    exact, _ = outcome(scores, correct, operations, choose_thresholds(scores, correct, operations, budget))
    assert exact - 1 <= found <= exact and took <= 60 * budget


def test_a_budget_that_the_first_exit_exceeds_is_refused_with_the_smallest():
    scores, correct, operations = problem(0, 3, 20)
    operations = [0.2291, 0.5, 1.0]
    with pytest.raises(InputError, match=r"--budget 0.1: .* first exit, .* 0\.229 .*; 0\.23 is the smallest"):
        choose_thresholds(scores, correct, operations, 0.1)
    assert choose_thresholds(scores, correct, operations, 0.2291)[0] == 0


def test_inr_of_a_hand_computed_example():
    clean = np.array([[3.0, 1.0], [5.0, -1.0]])  # mean (4, 0)
    noise = np.array([[1.0, 2.0], [-1.0, 0.0]])  # variances 1 and 1
    assert inr([clean, clean], [clean + noise, clean + 2 * noise]).tolist() == [8, 2]


def test_exits_below_half_the_mean_inr_are_dropped_but_never_the_last():
    assert drop_noisy([10, 2, 9, 3]).tolist() == [False, True, False, False]  # the mean is 6
    assert drop_noisy([10, 3, 9, 2]).tolist() == [False, False, False, False]
