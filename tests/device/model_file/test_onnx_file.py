"""The reader of ONNX files: what it finds, what it refuses, and that it always comes to an end."""

import contextlib
import os
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tgems_edge.errors import ModelFileError
from tgems_edge.model_file.default import built_in_model
from tgems_edge.model_file.gate import check_model_file
from tgems_edge.model_file.onnx_file import Value, Weights, read_header

# Numbers of the fields in onnx.proto that are used below.
IR_VERSION, PRODUCER, PRODUCER_VERSION, GRAPH, OPSET, METADATA = 1, 2, 3, 7, 8, 14
NODE, INITIALIZER = 1, 5
TYPE, ATTRIBUTE, DOMAIN = 4, 5, 7
BRANCH, BRANCHES = 6, 11
INPUT, OUTPUT = 11, 12
TENSOR, TENSORS = 5, 10
EXTERNAL, LOCATION = 13, 14
DIMS, ELEMENT, RAW = 1, 2, 9
FLOAT, INT8 = 1, 3


def number(value):
    """Encode as protobuf does."""
    value %= 1 << 64
    groups = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def field(key, value):
    if isinstance(value, int):
        return number(key << 3) + number(value)
    value = value.encode() if isinstance(value, str) else value
    return number(key << 3 | 2) + number(len(value)) + value


def message(*fields):
    return b"".join(field(*each) for each in fields)


def entry(key, value):
    return METADATA, message((1, key), (2, value))


def node(kind, *more):
    return NODE, message((TYPE, kind), *more)


def weights(shape, element, data):
    return INITIALIZER, message(*((DIMS, length) for length in shape), (ELEMENT, element), (RAW, data))


OWN_OPSET = (OPSET, message((2, 18)))
SMALLEST = message((IR_VERSION, 8), (GRAPH, b""), OWN_OPSET)


def model(*graph):
    return message((IR_VERSION, 8), (GRAPH, message(*graph)), OWN_OPSET)


@pytest.fixture
def read(tmp_path):
    """read(data): the header of a file of these bytes."""

    def read(data):
        path = tmp_path / "model.onnx"
        path.write_bytes(data)
        return read_header(path)

    return read


@pytest.fixture
def refusal(read, tmp_path):
    def refusal(data):
        with pytest.raises(ModelFileError) as raised:
            read(data)
        message = str(raised.value)
        assert message.startswith(f"{tmp_path / 'model.onnx'}: ")
        assert "\n" not in message
        return message

    return refusal


class TestWhatItFinds:
    def test_the_built_in_file(self):
        header = read_header(built_in_model())
        assert (header.ir_version, header.opset, header.opsets) == (8, 18, {"": 18})
        assert header.producer.startswith("tgems-edge ")
        assert header.metadata["task"] == "classify"
        assert header.operators["ArgMin"] == 1
        assert header.operators["Softmax"] > 1
        assert header.weights["int8"].parameters > header.weights["float32"].parameters
        stored = sum(kind.bytes for kind in header.weights.values())
        assert 0.9 < stored / built_in_model().stat().st_size < 1

    def test_producer_metadata_and_opsets(self, read):
        data = message(
            (IR_VERSION, 9),
            (PRODUCER, "pytorch"),
            (PRODUCER_VERSION, "2.5"),
            (GRAPH, b""),
            (OPSET, message((1, "ai.onnx"), (2, 21))),
            (OPSET, message((1, "com.example"), (2, 1))),
            entry("author", "ich"),
            entry("Größe", "猫"),
        )
        header = read(data)
        assert (header.ir_version, header.opset, header.producer) == (9, 21, "pytorch 2.5")
        assert header.opsets == {"": 21, "com.example": 1}
        assert header.metadata == {"author": "ich", "Größe": "猫"}

    def test_a_file_need_not_name_its_producer(self, read):
        header = read(SMALLEST)
        assert (header.producer, header.metadata, header.weights) == ("", {}, {})
        assert not header.operators

    def test_the_order_of_fields_does_not_matter(self, read):
        assert read(message(OWN_OPSET, (GRAPH, b""), (IR_VERSION, 8))) == read(SMALLEST)

    def test_fields_it_does_not_know_are_jumped_over(self, read):
        others = (
            field(99, b"text")
            + field(98, 5)
            + number(97 << 3 | 1)
            + bytes(8)
            + number(96 << 3 | 5)
            + bytes(4)
        )
        assert read(others + SMALLEST + others) == read(SMALLEST)

    def test_operators_are_counted_by_type_and_domain(self, read):
        gelu = node("Gelu", (DOMAIN, "com.microsoft"))
        header = read(model(node("Add"), gelu, node("Add", (DOMAIN, "ai.onnx")), node("Gelu"), gelu))
        assert header.operators == {"Add": 2, "com.microsoft.Gelu": 2, "Gelu": 1}

    def test_operators_and_weights_of_subgraphs_count(self, read):
        inner = message(node("Mul"), weights([4], FLOAT, bytes(16)))
        outer = message(node("If", (ATTRIBUTE, message((BRANCH, inner)))), node("Add"))
        several = message((BRANCHES, inner), (BRANCHES, outer))
        header = read(model(node("If", (ATTRIBUTE, message((BRANCH, outer))), (ATTRIBUTE, several))))
        assert header.operators == {"If": 3, "Add": 2, "Mul": 3}
        assert header.weights == {"float32": Weights(12, 48)}

    def test_weights_are_added_up_by_type(self, read):
        header = read(
            model(
                weights([2, 3], FLOAT, bytes(24)),
                weights([], FLOAT, bytes(4)),
                weights([5], INT8, bytes(5)),
                weights([0, 7], INT8, b""),
            )
        )
        assert header.weights == {"float32": Weights(7, 28), "int8": Weights(5, 5)}

    def test_inputs_and_outputs_have_types_and_shapes(self, read):
        shape = message((1, message((2, "B"))), (1, message((1, 3))), (1, b""))
        tensor = message((1, 7), (2, shape))
        data = model(
            (INPUT, message((1, "x"), (2, message((1, tensor))))),
            (INPUT, message((1, "unknown"))),
            (OUTPUT, message((1, "y"), (2, message((1, message((1, FLOAT))))))),
            (
                OUTPUT,
                message((1, "list"), (2, message((4, message((1, message((1, tensor)))))))),
            ),
        )
        header = read(data)
        assert header.inputs == (Value("x", "int64", ("B", 3, "")), Value("unknown", None, None))
        assert header.outputs == (Value("y", "float32", None), Value("list", None, None))

    def test_inputs_of_subgraphs_are_not_those_of_the_model(self, read):
        inner = message((INPUT, message((1, "inner"))))
        assert read(model(node("If", (ATTRIBUTE, message((BRANCH, inner)))))).inputs == ()

    def test_tensors_in_other_files_are_found_wherever_they_are(self, read):
        def elsewhere(name):
            return message((ELEMENT, FLOAT), (EXTERNAL, message((1, "location"), (2, name))), (LOCATION, 1))

        inner = message((INITIALIZER, elsewhere("a")))
        constants = (ATTRIBUTE, message((TENSOR, elsewhere("b")), (TENSORS, elsewhere("c"))))
        header = read(
            model(
                node("If", (ATTRIBUTE, message((BRANCH, inner)))),
                node("Constant", constants),
                (INITIALIZER, message((ELEMENT, FLOAT), (LOCATION, 1))),
                (INITIALIZER, elsewhere("d")),
            )
        )
        assert header.external == {"a", "b", "c", "", "d"}

    def test_parts_that_few_files_have_are_named(self, read):
        assert read(SMALLEST).extras == frozenset()
        assert read(SMALLEST + message((20, b""), (25, b""))).extras == {"training", "functions"}
        assert read(model((15, b""))).extras == {"sparse tensors"}
        assert read(model(node("Constant", (ATTRIBUTE, message((22, b"")))))).extras == {"sparse tensors"}

    def test_types_of_the_future_have_their_number(self, read):
        assert read(model(weights([2], 99, b"12"))).weights == {"type 99": Weights(2, 2)}

    def test_shapes_may_be_packed(self, read):
        packed = message((DIMS, number(300) + number(2)), (ELEMENT, INT8), (RAW, bytes(600)))
        assert read(model((INITIALIZER, packed))).weights == {"int8": Weights(600, 600)}

    def test_weights_are_left_where_they_are(self, tmp_path):
        """A gigabyte of them, of which the disk has none."""
        path = tmp_path / "model.onnx"
        size = 1 << 30
        head = message((DIMS, size), (ELEMENT, INT8)) + number(RAW << 3 | 2) + number(size)
        tensor = number(INITIALIZER << 3 | 2) + number(len(head) + size) + head
        graph = number(GRAPH << 3 | 2) + number(len(tensor) + size) + tensor
        tail = message((IR_VERSION, 8), OWN_OPSET)
        with path.open("wb") as file:
            file.write(graph)
            file.seek(size, os.SEEK_CUR)
            file.write(tail)
        tracemalloc.start()
        header = read_header(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert header.weights == {"int8": Weights(size, size)}
        assert peak < 1e6


class TestWhatItRefuses:
    def test_a_missing_file_says_how_to_make_one(self, tmp_path):
        with pytest.raises(ModelFileError, match=r"no such model file; make one with `tgems-edge export"):
            read_header(tmp_path / "model.onnx")

    def test_a_folder(self, tmp_path):
        with pytest.raises(ModelFileError, match="a folder"):
            read_header(tmp_path)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are none here")
    def test_a_pipe_that_nobody_writes_to(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ModelFileError, match="a device or a pipe"):
            read_header(tmp_path / "pipe")

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "no IR version"),
            (b"a shopping list\n", "not an ONNX file"),
            (b"\x89PNG\r\n\x1a\n", "not an ONNX file"),
            (bytes(100), "a field that does not fit"),
            (message((GRAPH, b""), OWN_OPSET), "no IR version"),
            (message((IR_VERSION, -1), (GRAPH, b""), OWN_OPSET), "no IR version"),
            (message((IR_VERSION, 8), OWN_OPSET), "no graph"),
            (message((IR_VERSION, 8), (GRAPH, b"")), "no opset"),
            (message((IR_VERSION, 8), (GRAPH, b""), (OPSET, message((1, "other"), (2, 1)))), "no opset"),
            (message((IR_VERSION, "8"), (GRAPH, b""), OWN_OPSET), "a text in place of a number"),
            (message((IR_VERSION, 8), (GRAPH, 5), OWN_OPSET), "a number in place of a text"),
            (SMALLEST + b"\x0b", "a field of type 3"),
            (SMALLEST + message(entry("a", "1"), entry("a", "2")), "two values of 'a'"),
            (SMALLEST + message((METADATA, message((1, b"\xff"), (2, "1")))), "a text that is none"),
            (SMALLEST + b"\xff" * 20, "a number without an end"),
            (SMALLEST + field(PRODUCER, "long")[:-1], "a field that does not fit"),
            (SMALLEST + message((GRAPH, b"")), "two graphs"),
            (SMALLEST + message((OPSET, message((1, "ai.onnx"), (2, 17)))), "two opsets of ONNX"),
            (SMALLEST + message((METADATA, message((1, "a"), (1, "b")))), "two values of key"),
            (model((NODE, b"")), "a node without a type"),
            (model(node("Add", (3, b"\xff"))), "a text that is none"),
            (model(node("Add", (1, b"\xff"))), "a text that is none"),
            (model((INPUT, message((1, b"\xff")))), "a text that is none"),
            (model(weights([2], FLOAT, bytes(4))), "not as many as their shape says"),
            (model(weights([1], FLOAT, bytes(8))), "not as many as their shape says"),
            (
                model((INITIALIZER, message((DIMS, 9), (ELEMENT, INT8), (5, bytes(2))))),
                "not as many as their",
            ),
            (model(weights([2], 0, b"")), "weights without a type"),
            (model(weights([-2], FLOAT, b"")), "an impossible shape"),
            (model(weights([1 << 40] * 2, FLOAT, b"")), "an impossible shape"),
            (model(weights([1] * 65, FLOAT, b"")), "an impossible shape"),
            (model((INITIALIZER, message((DIMS, bytes(1000))))), "more than 64 numbers"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_nonsense_is_one_line(self, refusal, data, reason):
        assert reason in refusal(data)

    def test_a_file_cut_short_anywhere(self, read):
        data = message(
            (IR_VERSION, 8), OWN_OPSET, (GRAPH, message(node("Add"), weights([2], FLOAT, bytes(8))))
        )
        read(data)
        for length in range(len(data)):
            with pytest.raises(ModelFileError):
                read(data[:length])

    def test_graphs_within_graphs_without_end_do_not_exhaust_the_stack(self, read):
        graph = b""
        for _ in range(3000):
            graph = message(node("If", (ATTRIBUTE, message((BRANCH, graph)))))
        assert read(message((IR_VERSION, 8), (GRAPH, graph), OWN_OPSET)).operators == {"If": 3000}

    def test_more_fields_than_any_model_has(self, refusal, monkeypatch):
        monkeypatch.setattr("tgems_edge.model_file.protobuf.MOST_FIELDS", 1000)
        assert "more than 1000 fields" in refusal(SMALLEST + field(99, 1) * 1000)

    def test_a_text_that_would_fill_the_memory(self, refusal, monkeypatch):
        monkeypatch.setattr("tgems_edge.model_file.protobuf.LONGEST_TEXT", 1000)
        assert "a text without an end" in refusal(SMALLEST + message(entry("a", "b" * 1001)))


any_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
KEYS = st.sampled_from([*range(1, 12), 14, 20, 25])
FIELDS = st.recursive(
    st.builds(field, KEYS, st.integers(0, 1 << 64) | st.binary(max_size=20)),
    lambda inner: st.builds(field, KEYS, st.lists(inner, max_size=4).map(b"".join)),
    max_leaves=20,
)


class TestAnyFile:
    """Reading ends in a header or a ModelFileError, and soon."""

    @any_file
    @given(data=st.binary(max_size=200))
    def test_of_any_bytes(self, read, data):
        with contextlib.suppress(ModelFileError):
            read(data)
        with contextlib.suppress(ModelFileError):
            read(SMALLEST + data)

    @settings(any_file, max_examples=50)
    @given(fields=st.lists(FIELDS, max_size=6))
    def test_of_any_fields(self, read, fields):
        with contextlib.suppress(ModelFileError):
            read(SMALLEST + b"".join(fields))

    @settings(any_file, max_examples=50)
    @given(data=st.data())
    def test_of_the_built_in_file_with_other_bytes_around_its_weights(self, data):
        changed = bytearray(built_in_model().read_bytes())
        places = st.integers(0, 40_000) | st.integers(len(changed) - 40_000, len(changed) - 1)
        for _ in range(data.draw(st.integers(1, 5))):
            changed[data.draw(places)] = data.draw(st.integers(0, 255))
        with contextlib.suppress(ModelFileError):
            check_model_file(bytes(changed), verify=False)
