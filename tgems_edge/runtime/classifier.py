"""The Python API of the device: `load` a file, `classify` pictures, read the `Result`."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tgems_edge.errors import ImageError, InputError
from tgems_edge.model_file.default import default_model
from tgems_edge.model_file.gate import IMAGE, INPUT, OUTPUTS, check_digest, check_model_file
from tgems_edge.runtime.answers import Answers, check_outputs
from tgems_edge.runtime.background import call_beside
from tgems_edge.runtime.decoding.limits import find_limits
from tgems_edge.runtime.images import Picture, read_pixels
from tgems_edge.runtime.result import Result, Speed
from tgems_edge.runtime.session import describe_provider, import_onnxruntime, open_session, run_session

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["Classifier", "load"]


@dataclass(frozen=True)
class _Read:
    """A picture as the graph takes it."""

    pixels: NDArray[np.uint8]  # (H, W, 3)
    milliseconds: float  # that it took to read


class Classifier:
    """A loaded model file. Safe to use from several threads."""

    def __init__(
        self,
        model: Path | bytes,
        *,
        threads: int | None = None,
        provider: str | None = None,
        fast_decode: bool = False,
        verify: bool = True,
        timeout: float | None = None,
        max_pixels: int | None = None,
    ):
        """Opens `model`; see `load`."""
        if timeout is not None and not timeout > 0:  # nan is not either
            raise InputError(f"timeout is {timeout:g}; give a number of seconds above 0")
        checked, self.card = check_model_file(model, verify=False)
        if verify:  # a Raspberry Pi 4 takes as long to read 40 MB as to import onnxruntime
            call_beside(import_onnxruntime, partial(check_digest, model))
        self.verified = verify
        self._session = open_session(checked, threads=threads, provider=provider, timeout=timeout)
        self._name = checked.name
        self._fast_decode = fast_decode
        self._timeout = timeout
        self._max_pixels = find_limits(max_pixels).pixels

    @property
    def names(self) -> tuple[str, ...]:
        """The C class names, in the order of the rates."""
        return self.card.classes

    @property
    def session(self) -> onnxruntime.InferenceSession:
        """The session that onnxruntime opened for the file."""
        return self._session

    @property
    def provider(self) -> str:
        """The provider that runs the graph, in words, and how many nodes it left to the CPU."""
        return describe_provider(self._session)

    def classify(self, picture: Picture) -> Result:
        """Labels one picture.

        Args:
            picture: a path, the bytes of a file, an open binary file, a uint8 array (H, W, 3) RGB or (H, W),
                or a Pillow image.

        Raises:
            ImageError: the picture cannot be read.
        """
        return self.classify_batch([picture])[0]

    def classify_batch(self, pictures: Sequence[Picture]) -> list[Result]:
        """Labels several pictures in one run of the graph; see `classify`."""
        return self._answer([self._read(picture) for picture in pictures])

    def classify_each(
        self, pictures: Iterable[Picture], *, batch: int = 1
    ) -> Generator[Result | ImageError, None, None]:
        """Labels any number of pictures; one that cannot be read gives its error and the others go on.

        While the graph runs, a thread reads the pictures of the next run. It ends with the iterator, and when
        that is closed.

        Args:
            pictures: see `classify`. Those of a sequence are read ahead; those of any other iterable, which
                may wait for a camera, are only asked for when their turn comes.
            batch: pictures per run of the graph.
        """
        if isinstance(pictures, Sequence) and len(pictures) > batch:
            from tgems_edge.runtime.ahead import map_ahead  # a single picture starts sooner without

            with closing(map_ahead(self._try_to_read, pictures, batch)) as reads:
                yield from self._answer_each(reads, batch)
        else:
            yield from self._answer_each(map(self._try_to_read, pictures), batch)

    def _read(self, picture: Picture) -> _Read:
        start = perf_counter()
        pixels = self.preprocess(picture)
        return _Read(pixels, 1000 * (perf_counter() - start))

    def _try_to_read(self, picture: Picture) -> _Read | ImageError:
        try:
            return self._read(picture)
        except ImageError as error:
            return error

    def _answer_each(self, reads: Iterator[_Read | ImageError], batch: int) -> Iterator[Result | ImageError]:
        while chunk := list(islice(reads, batch)):
            results = iter(self._answer([read for read in chunk if isinstance(read, _Read)]))
            yield from (next(results) if isinstance(read, _Read) else read for read in chunk)

    def _answer(self, reads: Sequence[_Read]) -> list[Result]:
        """Runs the graph once."""
        if not reads:
            return []
        start = perf_counter()
        answers = self.run([read.pixels for read in reads])
        inferred = perf_counter()
        own = [answers[row : row + 1] for row in range(len(reads))]
        for one in own:
            _ = one.order  # works it out, so that its time is in `postprocess`
        share = 1000 / len(reads)
        inference, postprocess = (inferred - start) * share, (perf_counter() - inferred) * share
        return [
            Result(one, Speed(read.milliseconds, inference, postprocess))
            for one, read in zip(own, reads, strict=True)
        ]

    def preprocess(self, picture: Picture) -> NDArray[np.uint8]:
        """Return the graph's input: uint8 (H, W, 3), resized unless the graph does that."""
        resize = self.card.input == INPUT
        return read_pixels(
            picture,
            self.card.preprocessing,
            resize=resize,
            fast_decode=self._fast_decode,
            max_pixels=self._max_pixels,
        )

    def run(self, inputs: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> Answers:
        """Runs the graph itself.

        Args:
            inputs: B pictures as `preprocess` gives them.

        Raises:
            ModelFileError: onnxruntime cannot run it, or not in time, or its answers are not those of a model
                file (`tgems_edge.runtime.answers`).
        """
        if self.card.input == INPUT:
            return self._run({INPUT: np.stack(list(inputs))}, len(inputs))
        return Answers.join([self._run({IMAGE: picture}, 1) for picture in inputs])

    def _run(self, fed: dict[str, NDArray[np.uint8]], pictures: int) -> Answers:
        """Runs the graph once, and checks its answers."""
        outputs = run_session(self._session, OUTPUTS, fed, name=self._name, timeout=self._timeout)
        return check_outputs(outputs, self.card, pictures, self._name)


def load(
    model: str | Path | None = None,
    *,
    threads: int | None = None,
    provider: str | None = None,
    fast_decode: bool = False,
    verify: bool = True,
    timeout: float | None = None,
    max_pixels: int | None = None,
) -> Classifier:
    """Loads a model file.

    Args:
        model: the file; default `$TGEMS_MODEL`, else `./model.onnx`, else the built-in demo file.
        threads: how many threads one run may use; default `$TGEMS_NUM_THREADS`, else the physical cores.
        provider: onnxruntime's execution provider, such as `CUDA`; default CPU.
        fast_decode: large JPEG files are decoded at reduced scale: sooner, with slightly other pixels.
        max_pixels: pictures of more are refused, and files larger than they explain, so that memory is
            bounded; default `$TGEMS_MAX_PIXELS`, else 52 million.
        verify: whether the file has to match its own digest: one that changed does not answer under the name
            of the original. What else a model file has to be (`tgems_edge.model_file.gate`) is checked
            in any case.
        timeout: seconds after which to give up on loading, or on a run of the graph; `math.inf` never does,
            but lets Ctrl-C end a run. A run that does not end when it is told to goes on in its thread.

    Raises:
        ModelFileError: the file is missing, broken, changed, not ours, too new, or not loaded in time.
        InputError: a provider, a number of threads, a timeout or a limit that cannot be used.
        MissingDependency: no onnxruntime is installed.
    """
    path = Path(model) if model is not None else default_model()
    return Classifier(
        path,
        threads=threads,
        provider=provider,
        fast_decode=fast_decode,
        verify=verify,
        timeout=timeout,
        max_pixels=max_pixels,
    )
