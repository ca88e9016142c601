"""The noise profile of LRA-EE (arXiv 2605.26415): what INT8 does to the tokens behind every block.

z_i are the tokens of one picture behind block i, computed in fp32, and z^_i the same in INT8; z_0 is what the
first block takes, and the last norm of the tower, which is behind its blocks, has no part in this. E is the
mean over pictures; norms and cosines are over all tokens and channels of one picture, as of one long vector.

    d_nat(i)   = E ||z_i - z_{i-1}||                   what a block adds to the tokens
    d_quant(i) = E ||z^_i - z_i||                      what INT8 has added up to there
    ratio(i)   = d_quant(i) / d_nat(i)
    drift(i)   = 1 - E cos(z^_i, z_i)
    INR(i)     = ||E m_i||^2 / E ||e_i - E e_i||^2     eq. 5, of the mean m_i of the patch tokens, which exits
                                                       read, and its error e_i = m^_i - m_i

B pictures, L tokens of which P are prefix tokens, D width, N blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from tgems_edge.errors import DataError, EncoderError, ImageError
from tgems_edge.model_file.card import Preprocessing
from tgems_edge.model_file.gate import INPUT
from tgems_edge.progress import Reporter
from tgems_edge.runtime.images import read_pixels
from tgems_edge.runtime.session import open_session
from tgems_edge.sources.data import ImageFolder
from tgems_export.encoders.encoder import Encoder
from tgems_export.encoders.towers.vits.vit import ViT
from tgems_export.exporting.graph.exit_graph import TowerGraph
from tgems_export.exporting.graph.onnx_graph import OPSETS, to_onnx
from tgems_export.exporting.quantization.equalisation import equalise
from tgems_export.exporting.quantization.products import find_products
from tgems_export.exporting.quantization.ranges import METHODS, Seen, observe
from tgems_export.exporting.quantization.recipe import Recipe, quantise

__all__ = ["RECIPES", "Drift", "Noise", "Profile", "measure_noise", "read_halves"]

LEAST_PICTURES = 32  # half of them find ranges, the other half measures
MOST_PICTURES = 256  # every recipe runs on half of them, one at a time: a minute for the demo

RECIPES: dict[str, Recipe] = {
    "dynamic": Recipe(ranges=None),
    **{method: Recipe(ranges=method) for method in METHODS},
    **{f"{method}, equalised": Recipe(ranges=method, equalised=True) for method in METHODS},
}


@dataclass(frozen=True)
class Profile:
    """The noise of one recipe behind each of N blocks, (N,) each."""

    quantisation: NDArray[np.float64]  # d_quant
    inr: NDArray[np.float64]
    drift: NDArray[np.float64]


@dataclass(frozen=True)
class Noise:
    """All measurements."""

    natural: NDArray[np.float64]  # (N,) d_nat
    profiles: Mapping[str, Profile]  # by recipe
    observed: int  # pictures that gave the ranges
    measured: int

    def ratio(self, recipe: str) -> NDArray[np.float64]:
        """d_quant / d_nat behind each block, (N,)."""
        return self.profiles[recipe].quantisation / self.natural


@dataclass
class Drift:
    """The drift of one recipe, a picture at a time."""

    distances: list[NDArray[np.float64]] = field(default_factory=list)  # (N,)
    cosines: list[NDArray[np.float64]] = field(default_factory=list)  # (N,)
    errors: list[NDArray[np.float64]] = field(default_factory=list)  # (N, D), e_i

    def add(self, exact: NDArray[np.float64], noisy: NDArray[np.float64], prefix: int) -> None:
        """Compares the tokens of one picture behind each block.

        Args:
            exact: z_1 to z_N, (N, L, D).
            noisy: z^_1 to z^_N, (N, L, D).
            prefix: P, how many tokens are no patches.
        """
        error = noisy - exact
        self.distances.append(_lengths(error))
        self.cosines.append((exact * noisy).sum((1, 2)) / (_lengths(exact) * _lengths(noisy)))
        self.errors.append(error[:, prefix:].mean(1))

    def profile(self, mean: NDArray[np.float64]) -> Profile:
        """Over all pictures, whose mean patch tokens E m_i are given, (N, D)."""
        variance = np.var(self.errors, axis=0).sum(-1)
        return Profile(
            quantisation=np.mean(self.distances, axis=0),
            inr=(mean**2).sum(-1) / variance,
            drift=1 - np.mean(self.cosines, axis=0),
        )


def measure_noise(
    encoder: Encoder, observed: NDArray[np.uint8], measured: NDArray[np.uint8], reporter: Reporter
) -> Noise:
    """The noise of every recipe behind every block.

    Args:
        encoder: at its full depth.
        observed: pictures that give the ranges, (n, H, W, 3).
        measured: others, on which the noise is measured.
        reporter: where progress goes.
    """
    tower = encoder.tower
    if not isinstance(tower, ViT):
        raise EncoderError(f"{encoder.id.name}: --noise compares blocks of one width; give a ViT")
    graph = TowerGraph(encoder, len(tower.points))
    reporter.say(f"writing all blocks of {encoder.id.name} as a graph")
    model = to_onnx(graph, encoder.preprocessing.size, OPSETS.start)
    exact = _open(model)
    sessions = {name: _open(quantised) for name, quantised in _quantised(model, observed, reporter)}
    drifts = {name: Drift() for name in sessions}
    prefix = tower.prefix
    added, means = [], []
    with reporter.task("measuring noise", len(measured), unit="pictures") as task:
        # One at a time, as on a device: a dynamic range is that of all that is computed at once.
        for picture in measured:
            tokens = _tokens(exact, picture)
            added.append(_lengths(np.diff(tokens, axis=0)))
            means.append(tokens[1:, prefix:].mean(1))
            for name, session in sessions.items():
                drifts[name].add(tokens[1:], _tokens(session, picture)[1:], prefix)
            task.advance(1)
    mean = np.mean(means, axis=0)
    profiles = {name: drift.profile(mean) for name, drift in drifts.items()}
    return Noise(np.mean(added, axis=0), profiles, len(observed), len(measured))


def _quantised(
    model: onnx.ModelProto, observed: NDArray[np.uint8], reporter: Reporter
) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Yield the graph by every recipe."""
    names = [name for product in find_products(model) for name in product.activations]

    def see(graph: onnx.ModelProto) -> dict[str, Seen]:
        with reporter.task("finding ranges", len(observed), unit="pictures") as task:
            return observe(graph, names, [observed], task)

    plain = see(model)
    equalised = equalise(model, plain)
    graphs = {False: (model, plain), True: (equalised, see(equalised))}
    with reporter.task("quantising", len(RECIPES), unit="recipes") as task:
        for name, recipe in RECIPES.items():
            graph, seen = graphs[recipe.equalised]
            method = recipe.ranges
            ranges = {tensor: values.range(method) for tensor, values in seen.items()} if method else {}
            yield name, quantise(graph, recipe, ranges)
            task.advance(1, name)


def _open(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return open_session(model.SerializeToString())


def _tokens(session: onnxruntime.InferenceSession, picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """z_0 to z_N of a picture (H, W, 3), (N + 1, L, D)."""
    return np.stack(session.run(None, {INPUT: picture[None]}))[:, :, 0].astype(np.float64)


def _lengths(tokens: NDArray[np.float64]) -> NDArray[np.float64]:
    """Norms over tokens and channels, (N, L, D) to (N,)."""
    return np.sqrt((tokens**2).sum((1, 2)))


def read_halves(
    folder: ImageFolder, preprocessing: Preprocessing, reporter: Reporter
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pictures that give ranges and pictures to measure on, (n, H, W, 3) each, n at most MOST_PICTURES / 2.

    They are evenly spread over the folder; no picture is in both, nor is a copy of it.

    Args:
        folder: labels have no part in this.
        preprocessing: what the encoder expects.
        reporter: where warnings go; pictures that cannot be read are left out.

    Raises:
        DataError: too few different pictures can be read.
    """
    different = [folder.digests.index(digest) for digest in dict.fromkeys(folder.digests)]
    spread = np.linspace(0, len(different) - 1, min(len(different), MOST_PICTURES)).astype(int)
    pictures = list(_readable([folder.path(different[i]) for i in spread], preprocessing, reporter))
    if len(pictures) < LEAST_PICTURES:
        raise DataError(
            f"{folder.root}: {len(pictures)} different pictures that can be read, half of which give ranges; "
            f"at least {LEAST_PICTURES} are needed, give more"
        )
    return np.stack(pictures[::2]), np.stack(pictures[1::2])


def _readable(
    paths: Sequence[Path], preprocessing: Preprocessing, reporter: Reporter
) -> Iterator[NDArray[np.uint8]]:
    with reporter.task("reading pictures", len(paths), unit="pictures") as task:
        for path in paths:
            task.advance(1)
            try:
                yield read_pixels(path, preprocessing)
            except ImageError as error:
                reporter.leave_out(error)
