"""Turn the graph that computes every exit (`exit_graph`) into that of a file, in which pictures leave.

Two forms give the same answers. The flat one computes everything and chooses; the nested one has what is
behind an exit in a branch of an `If`, which runs when any picture of the batch goes on, and in there the next
`If`. Each picture has the answer of the first exit that it leaves at, whatever else is in its batch.

Exits are cut apart by what their outputs depend on. So the graph may have been quantised in between, which
adds nodes and renames them: nothing is asked of it but the outputs and the constants that `exit_graph` names.

A runtime optimises each branch by itself. So a constant lies where it is used, unless an earlier exit uses it
as well; and a DequantizeLinear that feeds both sides of a cut is copied, because a product that does not find
it beside itself is not computed in integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy

from numpy.typing import ArrayLike
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    parser,
    shape_inference,
)

from tgems_edge.model_file.gate import OUTPUTS
from tgems_export.exporting.graph.exit_graph import GATED
from tgems_export.exporting.graph.onnx_graph import set_constant

__all__ = ["flat", "nested", "set_gate", "split"]

ANSWER = ("rates", "probabilities", "exit_layer")  # what is chosen; the label follows from the rates

# The layer of exit {l}, once for each picture.
LAYER = """
    count_{l} = Shape <end = 1> (rates_{l})
    number_{l} = Constant <value_ints = [{l}]> ()
    exit_layer_{l} = Expand (number_{l}, count_{l})
"""
# Which pictures have left at no exit up to {l}, as (B,) and (B, 1). Before opset 20 no ReduceMax takes bools.
FIRST = """
    going_{l} = Identity (go_on_{l})
"""
NEXT = """
    going_{l} = And (going_{before}, go_on_{l})
"""
COLUMN = """
    axis_{l} = Constant <value_ints = [1]> ()
    column_{l} = Unsqueeze (going_{l}, axis_{l})
"""
ANY = """
    whole_{l} = Cast <to = 6> (going_{l})
    most_{l} = ReduceMax <keepdims = 0> (whole_{l})
    any_{l} = Cast <to = 9> (most_{l})
"""
CHOICE = """
    {out[0]} = Where (column_{l}, {later[0]}, {own[0]})
    {out[1]} = Where (column_{l}, {later[1]}, {own[1]})
    {out[2]} = Where (going_{l}, {later[2]}, {own[2]})
"""
LABEL = """
    label = ArgMin <axis = 1, keepdims = 0> (rates)
"""


def set_gate(model: ModelProto, layer: int, weight: ArrayLike, bias: float) -> None:
    """Writes the gate of an exit into the graph: w . (confidence, margin, spread) + b < 0 goes on.

    Args:
        model: what `to_onnx` made, quantised or not; neither flat nor nested yet.
        layer: the exit's.
        weight: (3,) w.
        bias: b, with the threshold in it (`gates.GateFit.folded`).
    """
    set_constant(model, f"gate_weight_{layer}", weight)
    set_constant(model, f"gate_bias_{layer}", bias)


def flat(model: ModelProto, layers: Sequence[int]) -> ModelProto:
    """The graph with one answer for each picture, everything computed; the same for a single exit.

    Args:
        model: what `to_onnx` made, quantised or not, gates set.
        layers: of its exits.
    """
    segments = _cut(model.graph, layers)
    nodes = [node for segment in segments for node in segment]
    for number in range(len(layers)):
        nodes += _own_answer(layers, number)
    if len(layers) == 1:
        nodes = _renamed(nodes, dict(zip(_at(layers[0]), ANSWER, strict=True)))
    for number in reversed(range(len(layers) - 1)):
        nodes += _choice(layers, number, _answer(layers, number))
    constants = _constants(model.graph, nodes)
    return _model(model, [*nodes, *_parse(LABEL)], constants, _outputs(model.graph, layers))


def nested(model: ModelProto, layers: Sequence[int]) -> ModelProto:
    """The graph with one answer for each picture, nothing computed behind the exit of the last to leave.

    A single exit has nothing behind it, and the graph is the flat one.

    Args:
        model: what `to_onnx` made, quantised or not, gates set.
        layers: of its exits.
    """
    if len(layers) == 1:
        return flat(model, layers)
    segments = _cut(model.graph, layers)
    body = _nest(model.graph, layers, segments, 0)
    constants = _constants(model.graph, segments[0])
    return _model(model, [*body, *_parse(LABEL)], constants, _outputs(model.graph, layers))


def split(model: ModelProto, layers: Sequence[int]) -> list[ModelProto]:
    """A model for each exit: what it needs and no earlier one has.

    Its outputs are the exit's own, and behind them what later models take. Run one after the other with the
    gates outside, they are what the nested graph has to equal.

    Args:
        model: what `to_onnx` made, quantised or not.
        layers: of its exits.
    """
    known = _tensors(shape_inference.infer_shapes(model).graph)
    segments = _cut(model.graph, layers)
    models = []
    for number, (layer, nodes) in enumerate(zip(layers, segments, strict=True)):
        constants = _constants(model.graph, nodes)
        given = {output for node in nodes for output in node.output} | {tensor.name for tensor in constants}
        later = _inputs(node for segment in segments[number + 1 :] for node in segment)
        own = _own(model.graph, layer)
        passed_on = [name for node in nodes for name in node.output if name in later and name not in own]
        inputs = [known[name] for name in _inputs(nodes) if name not in given]
        models.append(_model(model, nodes, constants, [known[name] for name in (*own, *passed_on)], inputs))
    return models


def _renamed(nodes: Sequence[NodeProto], names: Mapping[str, str]) -> list[NodeProto]:
    """The nodes with other names for some of the tensors."""
    for node in nodes:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(tensor, tensor) for tensor in tensors]
    return list(nodes)


def _cut(graph: GraphProto, layers: Sequence[int]) -> list[list[NodeProto]]:
    """Return the nodes of each exit that no earlier exit has, in their order."""
    taken: set[int] = set()
    segments = []
    for layer in layers:
        needed = set(_own(graph, layer))
        segment = []
        for index, node in reversed(list(enumerate(graph.node))):
            if needed.intersection(node.output):
                needed.update(node.input)
                if index not in taken:
                    segment.append(index)
        taken.update(segment)
        segments.append([deepcopy(graph.node[index]) for index in reversed(segment)])
    return list(_dequantised(segments, layers))


def _dequantised(segments: Sequence[list[NodeProto]], layers: Sequence[int]) -> Iterator[list[NodeProto]]:
    """The segments, each with a copy of every DequantizeLinear of an earlier one that it reads."""
    earlier: dict[str, NodeProto] = {}
    for layer, segment in zip(layers, segments, strict=True):
        copies: dict[str, NodeProto] = {}
        for node in segment:
            for position, name in enumerate(node.input):
                if name in earlier:
                    own = copies[name] = deepcopy(earlier[name])
                    own.name = own.output[0] = node.input[position] = f"{name}_{layer}"
        yield [*copies.values(), *segment]
        earlier |= {node.output[0]: node for node in segment if node.op_type == "DequantizeLinear"}


def _nest(
    graph: GraphProto, layers: Sequence[int], segments: Sequence[list[NodeProto]], number: int
) -> list[NodeProto]:
    """The nodes of an exit, and behind them an `If` with those of all later ones."""
    nodes = [*segments[number], *_own_answer(layers, number)]
    if number == len(layers) - 1:
        return nodes
    layer = layers[number]
    on = [f"{what}_on_{layer}" for what in ANSWER]
    out = [f"{what}_out_{layer}" for what in ANSWER]
    # A branch may not return what comes from outside of it, but a copy.
    left = [helper.make_node("Identity", [own], [name]) for own, name in zip(_at(layer), out, strict=True)]
    behind = [*_nest(graph, layers, segments, number + 1), *_choice(layers, number, on)]
    here = {name for segment in segments[: number + 1] for name in _inputs(segment)}
    constants = [tensor for tensor in _constants(graph, segments[number + 1]) if tensor.name not in here]
    choice = helper.make_node(
        "If",
        [f"any_{layer}"],
        _answer(layers, number),
        then_branch=helper.make_graph(behind, f"behind_{layer}", [], _described(graph, layer, on), constants),
        else_branch=helper.make_graph(left, f"at_{layer}", [], _described(graph, layer, out)),
    )
    return [*nodes, *_parse(ANY, l=layer), choice]


def _own_answer(layers: Sequence[int], number: int) -> list[NodeProto]:
    """The layer of an exit, and, unless it is the last, which pictures go on behind it."""
    layer = layers[number]
    if number == len(layers) - 1:
        return _parse(LAYER, l=layer)
    decision = NEXT if number else FIRST
    return _parse(LAYER + decision + COLUMN, l=layer, before=layers[number - 1])


def _choice(layers: Sequence[int], number: int, out: Sequence[str]) -> list[NodeProto]:
    """The answer of this exit or of later ones, for each picture."""
    layer = layers[number]
    return _parse(CHOICE, l=layer, out=out, later=_answer(layers, number + 1), own=_at(layer))


def _answer(layers: Sequence[int], number: int) -> list[str]:
    """The names under which an exit and all later ones answer."""
    if number == 0:
        return list(ANSWER)
    if number == len(layers) - 1:
        return _at(layers[number])
    return [f"{what}_from_{layers[number]}" for what in ANSWER]


def _at(layer: int) -> list[str]:
    """The names under which an exit answers for itself."""
    return [f"{what}_{layer}" for what in ANSWER]


def _own(graph: GraphProto, layer: int) -> list[str]:
    """The outputs of an exit."""
    names = {f"{what}_{layer}" for what in GATED}
    return [output.name for output in graph.output if output.name in names]


def _inputs(nodes: Iterable[NodeProto]) -> dict[str, None]:
    """Return the names that nodes read, once each, in order, without inputs that are left out."""
    return dict.fromkeys(name for node in nodes for name in node.input if name)


def _constants(graph: GraphProto, nodes: Iterable[NodeProto]) -> list[TensorProto]:
    """Those that nodes read."""
    read = _inputs(nodes)
    return [tensor for tensor in graph.initializer if tensor.name in read]


def _tensors(graph: GraphProto) -> dict[str, ValueInfoProto]:
    """Whatever has a type in a graph, by its name."""
    return {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}


def _described(graph: GraphProto, layer: int, names: Sequence[str]) -> list[ValueInfoProto]:
    """Types and shapes of an exit's answer, under other names."""
    known = _tensors(graph)
    rates, probabilities = deepcopy(known[f"rates_{layer}"]), deepcopy(known[f"probabilities_{layer}"])
    exit_layer = helper.make_tensor_value_info(names[2], TensorProto.INT64, [None])
    exit_layer.type.tensor_type.shape.dim[0].CopyFrom(rates.type.tensor_type.shape.dim[0])
    rates.name, probabilities.name = names[:2]
    return [rates, probabilities, exit_layer]


def _outputs(graph: GraphProto, layers: Sequence[int]) -> list[ValueInfoProto]:
    """Those of the file."""
    rates, probabilities, exit_layer = _described(graph, layers[0], ANSWER)
    label = deepcopy(exit_layer)
    label.name = "label"
    described = {value.name: value for value in (rates, probabilities, label, exit_layer)}
    return [described[name] for name in OUTPUTS]


def _model(
    model: ModelProto,
    nodes: Sequence[NodeProto],
    constants: Sequence[TensorProto],
    outputs: Sequence[ValueInfoProto],
    inputs: Sequence[ValueInfoProto] | None = None,
) -> ModelProto:
    """A model like another, of other nodes."""
    graph = model.graph
    made = helper.make_graph(nodes, graph.name, graph.input if inputs is None else inputs, outputs, constants)
    return helper.make_model(made, opset_imports=model.opset_import, ir_version=model.ir_version)


def _parse(text: str, **names: object) -> list[NodeProto]:
    return list(parser.parse_graph(f"nodes () => () {{ {text.format(**names)} }}").node)
