"""A hundred thousand classifications from four threads through one loaded model: does it leak, is it right?

    python benchmarks/soak.py

The built-in model, pictures of many sizes drawn from seeds, as files in memory, so that decoding and
resizing are covered too. Every label is compared with the one that the same picture got before the other
threads were there. Eight minutes on two cores; Linux only, which says how much memory is resident. Expect
no other label, and memory that stays where it is after the first tenth.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from time import perf_counter

import numpy as np
import typer
from measuring.options import Quick
from measuring.result import save
from numpy.typing import NDArray
from PIL import Image

from tgems_edge.model_file.default import built_in_model
from tgems_edge.progress import Reporter
from tgems_edge.runtime.classifier import Classifier, load

RUNS = 100_000
THREADS = 4
PICTURES = 101  # a prime: each thread meets each picture in turn
SIZES = (16, 320)  # pixels of a side, from and to
SAMPLES = 1000  # of memory, evenly over the runs
SECONDS_BETWEEN_LOOKS = 0.1
WARM_UP = 0.1  # share of the runs in which memory may still grow to what it needs
PARTS = 10  # of the samples behind it, left out in turn to see how sure the slope is


def draw_pictures() -> list[bytes]:
    """JPEG and PNG files of smooth noise."""
    rng = np.random.default_rng(0)
    files = []
    for number in range(PICTURES):
        width, height = rng.integers(*SIZES, 2).tolist()
        noise = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR)
        file = io.BytesIO()
        picture.save(file, "PNG" if number % 2 else "JPEG")
        files.append(file.getvalue())
    return files


class Worker:
    """The work of one of the threads that share a model."""

    def __init__(self, classifier: Classifier, files: list[bytes], rates: NDArray[np.float32], turns: range):
        """Numbers of its runs; `rates` (n, C) are expected."""
        self._classifier, self._files, self._rates, self._turns = classifier, files, rates, turns
        self.done = 0
        self.wrong = 0  # labels
        self.difference = 0.0  # of a rate, the largest

    def run(self) -> None:
        """Classifies and compares."""
        for turn in self._turns:
            index = turn % PICTURES
            result = self._classifier.classify(self._files[index])
            expected = self._rates[index]
            self.wrong += result.top1 != expected.argmin()
            self.difference = max(self.difference, float(np.abs(result.rates - expected).max()))
            self.done += 1


def resident() -> float:
    """Megabytes of this process."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def soak(workers: list[Worker], runs: int) -> NDArray[np.float64]:
    """Runs the threads to their end: (n, 2) runs that were done and megabytes resident then."""
    number_of_samples = min(SAMPLES, runs // 10)
    # Has its memory already: what is measured must not grow by measuring.
    samples = np.ones((number_of_samples, 2))
    task = Reporter().task("classifying", runs, unit="pictures")
    with task, ThreadPoolExecutor(len(workers)) as pool:
        running = [pool.submit(worker.run) for worker in workers]
        for number in range(number_of_samples):
            while sum(worker.done for worker in workers) < runs * (number + 1) // number_of_samples:
                for done in wait(running, SECONDS_BETWEEN_LOOKS).done:
                    done.result()  # raises what the thread raised
            samples[number] = sum(worker.done for worker in workers), resident()
            task.advance(runs // number_of_samples)
    return samples


def slope(samples: NDArray[np.float64]) -> tuple[float, float]:
    """Kilobytes per 1000 runs, and their standard error.

    Neighbouring samples are alike, so the error is that of the jackknife, which leaves out a tenth of them in
    one piece, and not that of the straight line.
    """

    def fit(kept: NDArray[np.float64]) -> float:
        return float(1000 * 1024 * np.polyfit(kept[:, 0], kept[:, 1], 1)[0])

    parts = np.array_split(np.arange(len(samples)), PARTS)
    without = np.array([fit(np.delete(samples, part, 0)) for part in parts])
    error = np.sqrt((PARTS - 1) * without.var())
    return fit(samples), float(error)


def main(quick: Quick = False) -> None:
    """Soak the built-in model; quickly, with a thousand classifications."""
    runs = 1000 if quick else RUNS
    files = draw_pictures()
    classifier = load(built_in_model(), threads=1)
    rates = np.stack([classifier.classify(file).rates for file in files])
    workers = [Worker(classifier, files, rates, range(number, runs, THREADS)) for number in range(THREADS)]
    before, started = resident(), perf_counter()
    samples = soak(workers, runs)
    minutes = (perf_counter() - started) / 60
    warm = samples[samples[:, 0] >= WARM_UP * runs]
    growth, error = slope(warm)
    rows = [{"classifications": 0, "resident_mb": before}]
    for part in np.array_split(samples, PARTS):
        rows.append({"classifications": int(part[-1, 0]), "resident_mb": part[:, 1].mean()})
    facts = {
        "runs": runs,
        "pictures": PICTURES,
        "threads": THREADS,
        "minutes": minutes,
        "wrong": sum(int(worker.wrong) for worker in workers),
        "difference": max(worker.difference for worker in workers),
        "warm_up": WARM_UP,
        "growth_kb": growth,
        "growth_error": error,
        "samples": len(warm),
    }
    save("soak", {"memory": rows}, facts, quick=quick)


if __name__ == "__main__":
    typer.run(main)
