"""`tgems-edge inspect`: show the contents of a model file."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tgems_edge.cli.model_file import Json
from tgems_edge.cli.output import print_json, print_lines, report_error
from tgems_edge.cli.tables import aligned, separated
from tgems_edge.model_file.card import METADATA_KEY, Card, Dynamic, Preprocessing, Quantisation, resampling
from tgems_edge.model_file.default import default_model
from tgems_edge.model_file.gate import INPUT
from tgems_edge.model_file.onnx_file import Header, read_header
from tgems_edge.model_file.seal import is_sealed
from tgems_edge.printable import printable, shortened

app = typer.Typer(add_completion=False, rich_markup_mode=None)

FINDING = 1
WIDTH = 80  # columns of a terminal
MOST_CLASSES = 20  # names of classes that are shown
MOST_PARTS = 60  # names of operators, packages and other parts that are shown
POOLS = {"cls": "class token", "mean": "mean over the positions", "embedding": "joint embedding"}
HEADS = {"tgem": "T-GEM", "ssa": "SSA head", "zero-shot": "zero-shot head"}


@dataclass(frozen=True)
class _Contents:
    """Contents of a file."""

    path: Path
    size: int  # bytes
    header: Header
    card: Card | None
    digest_holds: bool | None  # None without a card


@app.command()
def inspect(
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MODEL]",
            help="Model file. Default: $TGEMS_MODEL, else ./model.onnx, else the built-in demo file.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the contents of a model file: classes, exits, input, calibration, accuracy, licence, operators.

    The file is read but not run, so this works without onnxruntime. The exit code is 1 if the file was
    changed after its export, and for an ONNX file that `tgems-edge export` did not make.

    Example: tgems-edge inspect model.onnx
    """
    path = model or default_model()
    header = read_header(path)
    card = Card.from_metadata(header.metadata, str(path)) if METADATA_KEY in header.metadata else None
    contents = _Contents(path, path.stat().st_size, header, card, is_sealed(path) if card else None)
    if as_json:
        print_json(_as_json(contents))
    else:
        print_lines(_as_lines(contents))
    if card is None:
        report_error(f"{path}: no card, so `tgems-edge export` did not make this file; give a model file")
    elif not contents.digest_holds:
        report_error(f"{path}: changed since it was exported (its digest does not hold); copy it again")
    if not contents.digest_holds:
        raise typer.Exit(FINDING)


def _as_json(contents: _Contents) -> dict[str, Any]:
    header = contents.header
    return {
        "file": str(contents.path),
        "bytes": contents.size,
        "header": {
            "ir_version": header.ir_version,
            "opsets": header.opsets,
            "producer": header.producer,
            "metadata": {key: text for key, text in header.metadata.items() if key != METADATA_KEY},
            "external": sorted(header.external),
            "extras": sorted(header.extras),
            "operators": dict(header.operators.most_common()),
            "weights": {element: asdict(weights) for element, weights in header.weights.items()},
        },
        "schema": contents.card and contents.card.schema,
        "card": contents.card and json.loads(contents.card.to_json()),
        "digest_holds": contents.digest_holds,
    }


def _as_lines(contents: _Contents) -> list[str]:
    card = contents.card
    sections = [_file(contents)]
    if card:
        sections += [_classes_and_exits(card), _input(card), _measurements(card), _origin(card)]
    sections.append(_graph(contents.header))
    width = max(len(name) for rows in sections for name in rows)
    blocks = [[line for name, text in rows.items() for line in _row(name, text, width)] for rows in sections]
    if card and card.dynamic:
        blocks.insert(2, _exits(card, card.dynamic))
    return separated([[str(contents.path)], *blocks])


def _row(name: str, text: str, width: int) -> list[str]:
    """Return a name and its text, wrapped into its own column; [] without text."""
    return textwrap.wrap(
        printable(text),
        WIDTH,
        initial_indent=f"{name:<{width}}  ",
        subsequent_indent=" " * (width + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _file(contents: _Contents) -> dict[str, str]:
    header = contents.header
    opsets = (f"{domain} opset {version}".strip() for domain, version in header.opsets.items())
    return {
        "size": _size(contents.size),
        "digest": {True: "holds", False: "does not hold", None: ""}[contents.digest_holds],
        "card": f"schema {contents.card.schema}" if contents.card else "",
        "ONNX": _list([f"IR version {header.ir_version}", *opsets]),
        "written by": _list(filter(None, [header.producer, header.metadata.get("date")])),
    }


def _classes_and_exits(card: Card) -> dict[str, str]:
    return {
        "classes": f"{len(card.classes)}: {shortened(card.classes, MOST_CLASSES)}",
        "not trained": shortened(card.classes_not_trained, MOST_CLASSES),
        "prompts": f"{len(card.templates)}: {shortened(card.templates, 3)}",
        "encoder": " ".join(filter(None, [card.encoder.name, card.encoder.pretrained])),
        "exits": _describe_exits(card),
        "precision": card.precision,
        "quantization": _quantization(card.quantisation) if card.quantisation else "",
        "INT8 against fp32": card.quantisation.cost if card.quantisation else "",
    }


def _describe_exits(card: Card) -> str:
    last, operations = card.last_exit, card.mean_operations
    head = HEADS[last.head_kind]
    if operations is None:
        return f"layer {last.title}, {POOLS[last.pool]}, {head}, K {last.k}"
    titles = _list([exit.title for exit in card.exits])
    return f"layers {titles}, {head}; on average {operations:.0%} of the full tower's operations"


def _exits(card: Card, dynamic: Dynamic) -> list[str]:
    """Return the table of exits: share of pictures, operations and threshold of each."""
    rows = [["exit", "share", "operations", "threshold", "K", "reads"]]
    for exit in card.exits:
        share = f"{exit.calibration.share:.1%}" if exit.calibration else "-"
        operations = f"{(exit.operations or 0) / (card.last_exit.operations or 1):.0%}"
        threshold = f"{exit.gate.threshold:.3f}" if exit.gate else "-"
        rows.append([exit.title, share, operations, threshold, str(exit.k), POOLS[exit.pool]])
    return [*aligned(rows), *(f"no exit {layer}: {reason}" for layer, reason in dynamic.dropped.items())]


def _quantization(made: Quantisation) -> str:
    parts = [made.scheme, f"for {made.target}"]
    if made.ranges:
        parts.append(f"{made.ranges} ranges of {made.images} pictures")
    if made.equalised:
        parts.append("equalized")
    if made.kept:
        parts.append(f"not quantized: {_list(made.kept)}")
    return _list(parts)


def _input(card: Card) -> dict[str, str]:
    height, width = card.preprocessing.size
    by_caller = card.input == INPUT
    shape = f"(B, {height}, {width}, 3)" if by_caller else "(H, W, 3), resized inside"
    rows = {"input": f"{card.input}, uint8 {shape}", "preprocessing": _preprocessing(card.preprocessing)}
    if card.resizing:
        alike, same = card.resizing.pixels_within_1, card.resizing.label_agreement
        rows["resizing"] = f"{alike:.2%} of pixels within 1 of 255 of Pillow's, {same:.1%} equal labels"
    return rows


def _preprocessing(made: Preprocessing) -> str:
    size = "x".join(map(str, made.size))
    resized = {
        "shortest": f"shortest edge resized, centre {size} cropped",
        "longest": f"longest edge resized, padded to {size} with {made.fill_color}",
        "squash": f"resized to {size} without keeping the aspect ratio",
    }
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (made.mean, made.std))
    profiles = "converted to sRGB" if made.colour else "ignored"
    return (
        f"{resized[made.resize_mode]}, {resampling(made)}; mean {mean}, std {std}; colour profiles {profiles}"
    )


def _measurements(card: Card) -> dict[str, str]:
    """Return the measurements made at export: calibration, accuracy and parity."""
    rows = {"calibration": "none"}
    if made := card.calibration:
        temperature = f"temperature {card.last_exit.temperature:.3g}"
        rows["calibration"] = (
            f"{made.images} pictures; {temperature}, coverage {_list(made.conformal)}, "
            f"reject {_list(made.rejection)}"
        )
    rows["accuracy"] = "not measured"
    if measured := card.accuracy:
        rows["accuracy"] = f"{measured.top1:.1%} of {measured.images} pictures"
        if measured.calibration_error is not None:
            rows["accuracy"] += f", calibration error {measured.calibration_error:.1%}"
    parity = card.parity
    rows["parity"] = (
        f"rates within {parity.largest_rate_difference:.1e} of PyTorch's, {parity.label_agreement:.1%} equal "
        f"labels on {parity.pictures} pictures ({parity.of})"
    )
    return rows


def _origin(card: Card) -> dict[str, str]:
    return {
        "licence": "; ".join(f"{part}: {terms}" for part, terms in card.licence.items()),
        "made with": _list(f"{package} {version}" for package, version in card.versions.items()),
    }


def _graph(header: Header) -> dict[str, str]:
    kinds = sorted(header.weights.items(), key=lambda kind: -kind[1].bytes)
    weights = (f"{element} {own.parameters:,} in {_size(own.bytes)}" for element, own in kinds)
    return {
        "operators": _list(f"{operator} {count}" for operator, count in header.operators.most_common()),
        "weights": "; ".join(weights),
        "external weights": _list(repr(name) for name in sorted(header.external)),
        "other parts": _list(sorted(header.extras)),
    }


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e4 else f"{count} bytes"


def _list(parts: Iterable[str]) -> str:
    return shortened(parts, MOST_PARTS)
