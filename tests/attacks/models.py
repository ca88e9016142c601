"""Hostile model files: each is the built-in file with one thing that no exporter writes, and sealed.

What each must be refused with stands beside it. `STRUCTURE` never reaches onnxruntime; `ANSWERS` loads and
then answers what no model file may.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from tgems_edge.model_file.card import METADATA_KEY
from tgems_edge.model_file.default import built_in_model
from tgems_edge.model_file.seal import seal

SECRET = "/etc/passwd"
MEMORY = "*/_ORT_MEM_ADDR_/*"  # how onnxruntime names tensors that lie at an address of its own memory


@dataclass(frozen=True)
class Attack:
    """A way to change the built-in file, and words of the message that it must be refused with."""

    name: str
    words: str
    edit: Callable[[onnx.ModelProto], None] = lambda model: None
    rewrite: Callable[[bytes], bytes] = lambda data: data  # of the serialised model, before it is sealed
    respell: Callable[[bytes], bytes] = lambda data: data  # of the sealed file

    def __str__(self) -> str:
        return self.name

    def file(self) -> bytes:
        """The file's bytes."""
        model = onnx.load(built_in_model())
        unseal(model)
        self.edit(model)
        return self.respell(seal(self.rewrite(model.SerializeToString())))


def unseal(model):
    """Takes the digest out of the card, as before sealing."""
    entry = card_entry(model)
    entry.value = re.sub('"file_sha256": "[0-9a-f]{64}"', f'"file_sha256": "{"0" * 64}"', entry.value)


def card_entry(model):
    return next(entry for entry in model.metadata_props if entry.key == METADATA_KEY)


def with_card(**changes):
    """An edit of fields of the card."""

    def edit(model):
        entry = card_entry(model)
        entry.value = json.dumps(json.loads(entry.value) | changes, sort_keys=True, ensure_ascii=False)

    return edit


def external(location, name="stolen"):
    """A tensor that is in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[8], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def node(kind, inputs=(), outputs=("unused",), **options):
    """An edit that adds a node."""
    return lambda model: model.graph.node.append(helper.make_node(kind, inputs, outputs, **options))


def weights(tensor):
    """An edit that adds an initialiser."""
    return lambda model: model.graph.initializer.append(tensor)


def branch(tensor):
    """A graph of one constant."""
    graph = helper.make_graph([helper.make_node("Identity", [tensor.name], ["out"])], "branch", [], [])
    graph.initializer.append(tensor)
    graph.output.append(helper.make_tensor_value_info("out", TensorProto.FLOAT, [8]))
    return graph


def sparse():
    values = helper.make_tensor("values", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("indices", TensorProto.INT64, [1], [0])
    return helper.make_sparse_tensor(values, indices, [8])


def add_training(model):
    model.training_info.add().initialization.name = "training"


def add_function(model):
    opset = helper.make_opsetid("", 18)
    body = [helper.make_node("Identity", ["x"], ["y"])]
    model.functions.append(helper.make_function("", "Twice", ["x"], ["y"], body, [opset]))


def add_inputs(model):
    value = helper.make_tensor_value_info
    model.graph.input.extend(value(f"more{i}", TensorProto.FLOAT, [1]) for i in range(100))


def add_output(model):
    model.graph.output.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["B", 10]))


def retype(values, kind):
    def edit(model):
        getattr(model.graph, values)[0].type.tensor_type.elem_type = kind

    return edit


def claim_size(model):
    """An input that would take the memory of a thousand machines, in graph and card alike."""
    size = 10**6
    with_card(preprocessing=json.loads(card_entry(model).value)["preprocessing"] | {"size": [size, size]})(
        model
    )
    for axis in model.graph.input[0].type.tensor_type.shape.dim[1:3]:
        axis.dim_value = size


def tensor(dims, data=bytes(4)):
    return TensorProto(name="large", data_type=TensorProto.FLOAT, dims=dims, raw_data=data)


def loop(model):
    """A loop that counts to 2^62."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [value("turn", TensorProto.INT64, []), value("go", TensorProto.BOOL, [])],
        [value("on", TensorProto.BOOL, [])],
    )
    model.graph.initializer.append(helper.make_tensor("turns", TensorProto.INT64, [], [1 << 62]))
    node("Loop", ["turns", ""], (), body=body)(model)


IN_OTHER_FILE = "a tensor of it is in"
CONTRACT = "its inputs and outputs are not those its card implies"

STRUCTURE = [
    Attack("external initialiser", f"{IN_OTHER_FILE} '{SECRET}'", weights(external(SECRET))),
    Attack("external file beside it", IN_OTHER_FILE, weights(external("model.onnx.data"))),
    Attack("external memory", IN_OTHER_FILE, weights(external(MEMORY))),
    Attack("external without a name", IN_OTHER_FILE, weights(external(""))),
    Attack("external attribute", f"{IN_OTHER_FILE} '{SECRET}'", node("Constant", value=external(SECRET))),
    Attack(
        "external in a subgraph",
        f"{IN_OTHER_FILE} '{SECRET}'",
        node("If", ["flag"], then_branch=branch(external(SECRET)), else_branch=branch(external(SECRET))),
    ),
    Attack(
        "sparse initialiser", "sparse tensors", lambda model: model.graph.sparse_initializer.append(sparse())
    ),
    Attack("sparse attribute", "sparse tensors", node("Constant", sparse_value=sparse())),
    Attack("training", "it has training", add_training),
    Attack("function", "it has functions", add_function),
    Attack("operator of another domain", "'com.microsoft'", node("Gelu", ["x"], domain="com.microsoft")),
    Attack(
        "opset of another domain",
        "'org.evil'",
        lambda model: model.opset_import.append(helper.make_opsetid("org.evil", 1)),
    ),
    Attack("loop", "operators that no model file has ('Loop')", loop),
    *(
        Attack(kind, f"operators that no model file has ('{kind}')", node(kind, ["x"]))
        for kind in ("Scan", "RandomNormalLike", "Multinomial", "StringNormalizer", "ImageDecoder")
    ),
    Attack(
        "two cards",
        "two values of 'tgems'",
        lambda model: model.metadata_props.add(key=METADATA_KEY, value="{}"),
    ),
    Attack("two graphs", "two graphs", rewrite=lambda data: data + b"\x3a\x00"),
    Attack("card without an end", "MB is too large (at most 17)", with_card(more="a" * (17 << 20))),
    Attack("numbers without an end", "is not a number of 64 bits", with_card(k=10**400)),
    Attack("size of another world", "an impossible input size", claim_size),
    Attack("dims that overflow", "an impossible shape", weights(tensor([1 << 40, 1 << 40]))),
    Attack("dims without their data", "not as many as their shape says", weights(tensor([1 << 30]))),
    Attack("negative dims", "an impossible shape", weights(tensor([-1]))),
    Attack(
        "a name that is no text",
        "a text that is none",
        node("Identity", ["x"], name="a name"),
        lambda data: data.replace(b"a name", b"a \xffame"),
    ),
    Attack("many inputs", CONTRACT, add_inputs),
    Attack("another output", CONTRACT, add_output),
    Attack("input of another type", CONTRACT, retype("input", TensorProto.FLOAT)),
    Attack("rates of another type", CONTRACT, retype("output", TensorProto.DOUBLE)),
    Attack(
        "another name under the old digest",
        "changed since it was exported",
        respell=lambda data: data.replace(b'"airplane"', b'"warplane"'),
    ),
    Attack(
        "other weights under the old digest",
        "changed since it was exported",
        respell=lambda data: data[:500_000] + bytes(8) + data[500_008:],
    ),
]


def wrong(output, *nodes, **constants):
    """An edit that puts nodes between the true output, `true`, and what is given as it."""

    def edit(model):
        for made in model.graph.node:
            made.output[:] = ["true" if name == output else name for name in made.output]
            made.input[:] = ["true" if name == output else name for name in made.input]
        for name, (kind, shape, values) in constants.items():
            model.graph.initializer.append(helper.make_tensor(name, kind, shape, values))
        for kind, inputs, out, *options in nodes:
            model.graph.node.append(helper.make_node(kind, inputs, [out], **dict(options)))

    return edit


FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
NAN, INFINITE = float("nan"), float("inf")

ANSWERS = [
    Attack(
        "rates nan",
        "rates that are no",
        wrong("rates", ("Mul", ["true", "c"], "rates"), c=(FLOAT, [], [NAN])),
    ),
    Attack(
        "rates infinite",
        "rates that are no numbers",
        wrong("rates", ("Add", ["true", "c"], "rates"), c=(FLOAT, [], [INFINITE])),
    ),
    Attack(
        "probabilities nan",
        "probabilities that are not from 0 to 1",
        wrong("probabilities", ("Mul", ["true", "c"], "probabilities"), c=(FLOAT, [], [NAN])),
    ),
    Attack(
        "probabilities above 1",
        "probabilities that are not from 0 to 1",
        wrong("probabilities", ("Add", ["true", "c"], "probabilities"), c=(FLOAT, [], [1.0])),
    ),
    Attack(
        "label beyond the classes",
        "a label that is no class",
        wrong("label", ("Add", ["true", "c"], "label"), c=(INT64, [1], [10])),
    ),
    Attack(
        "label below the classes",
        "a label that is no class",
        wrong("label", ("Sub", ["true", "c"], "label"), c=(INT64, [1], [10])),
    ),
    Attack(
        "label of another class",
        "a label whose rate is not the smallest",
        wrong(
            "label",
            *(("Add", ["true", "one"], "next"), ("Mod", ["next", "ten"], "label")),
            one=(INT64, [1], [1]),
            ten=(INT64, [1], [10]),
        ),
    ),
    Attack(
        "exit of another block",
        "an answer from block 6, which is no exit of its card",
        wrong("exit_layer", ("Add", ["true", "c"], "exit_layer"), c=(INT64, [1], [1])),
    ),
    Attack(
        "twice as many rates",
        "outputs of other types or shapes",
        wrong(
            "rates",
            # The shape depends on an output, so that nobody knows it before the graph runs.
            *(("Min", ["label", "zero"], "nothing"), ("Add", ["nothing", "two"], "twice")),
            *(("Concat", ["one", "twice"], "times", ("axis", 0)), ("Tile", ["true", "times"], "rates")),
            zero=(INT64, [1], [0]),
            two=(INT64, [1], [2]),
            one=(INT64, [1], [1]),
        ),
    ),
]


def slow(size, count):
    """An edit that multiplies square matrices of this size, one after the other, before there are rates."""

    def edit(model):
        products = [("MatMul", [f"p{i}", f"p{i}"], f"p{i + 1}") for i in range(count)]
        wrong(
            "rates",
            *(("Cast", ["pixels"], "floats", ("to", FLOAT)), ("ReduceMean", ["floats"], "mean")),
            *(("Mul", ["mean", "nil"], "zero"), ("Reshape", ["zero", "flat"], "square")),
            *(("Expand", ["square", "size"], "p0"), *products),
            *(("ReduceMax", [f"p{count}"], "largest"), ("Reshape", ["largest", "flat"], "end")),
            ("Add", ["true", "end"], "rates"),
            nil=(FLOAT, [], [0.0]),
            flat=(INT64, [2], [1, 1]),
            size=(INT64, [2], [size, size]),
        )(model)

    return edit
