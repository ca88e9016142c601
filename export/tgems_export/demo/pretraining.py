"""Training of the demo CLIP: pictures against prompts, on CIFAR-10 and the 180 seen classes of Tiny-ImageNet.

Every step draws its prompts and its changes to the pictures from a generator seeded with (seed, step),
and every epoch its order from (seed, epoch). So the state between two steps is weights, averages,
optimisers and nothing else; it is saved as training goes, and a run that was killed goes on from there.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tgems_edge.errors import InputError
from tgems_edge.progress import Reporter
from tgems_export.demo.augmentation import Augmentation, change, mix
from tgems_export.demo.network import WEIGHTS, architecture, load_earlier, make_optimisers
from tgems_export.demo.pictures import PREPROCESSING, Pictures, split
from tgems_export.demo.vocabulary import Vocabulary, build_vocabulary
from tgems_export.encoders.checkpoints.loading import DEMO_FOLDER
from tgems_export.encoders.prompts import NAMED, class_embeddings
from tgems_export.storage.files import read_checked, write_atomically, write_checked

__all__ = ["RECIPES", "Settings", "cross_entropy", "pretrain"]

LICENCE = "trained on CIFAR-10 and Tiny-ImageNet: non-commercial research use"
TEMPLATES = NAMED["default"]
CHECK_BATCH = 250
LARGEST_SCALE = 100.0  # of the logits, as in CLIP


@dataclass(frozen=True)
class Settings:
    """Settings of the demo CLIP's training. The defaults want an accelerator."""

    width: int = 256  # D; 9.6 M parameters in 12 blocks
    epochs: int = 120
    batch: int = 1024
    matrix_learning_rate: float = 3e-3  # of Muon, which updates the matrices of the image tower
    learning_rate: float = 1e-3  # of AdamW, for everything else
    matrix_weight_decay: float = 0.1
    weight_decay: float = 0.01
    warm_up: float = 0.05  # share of the steps
    patch_dropout: float = 0.5  # patches left out while most is learnt (FLIP, arXiv 2212.00794)
    all_patches_from: float = 0.8  # share of the steps after which every patch is seen
    average_over: float = 0.02  # share of the steps that the shipped average of the weights looks back
    label_smoothing: float = 0.1
    augmentation: Augmentation = field(
        default_factory=lambda: Augmentation(least_area=0.35, colour=0.3, erase=0.25, mix=0.5)
    )
    checks_per_epoch: int = 1  # measurements on held-out pictures, each with a checkpoint
    held_out: int = 1000  # pictures of each data set, at most a tenth, that are watched, never trained on
    seed: int = 0


# On two cores an epoch takes more than half an hour: a smaller tower, few epochs, hardly changed pictures.
RECIPES = {
    "accelerator": Settings(),
    "cpu": Settings(
        width=128,
        epochs=2,
        batch=512,
        matrix_learning_rate=2e-3,
        learning_rate=2e-3,
        matrix_weight_decay=0.05,
        weight_decay=0.05,
        all_patches_from=0.88,
        average_over=0.01,
        label_smoothing=0.0,
        augmentation=Augmentation(shift=0.125),
        checks_per_epoch=6,
    ),
}


def pretrain(
    pictures: Pictures,
    settings: Settings,
    out: Path,
    reporter: Reporter,
    *,
    device: torch.device,
    start_from: Path | None = None,
) -> Path:
    """Train, and write an open_clip folder of fp16 weights with the curve of its training.

    Killed at any point and called again, it goes on from the last check; once done, it only writes again.

    Args:
        pictures: see `Pictures`.
        settings: see `Settings`.
        out: the folder to write; it also holds the checkpoint that an interrupted run goes on from.
        reporter: where progress goes.
        device: where the training runs.
        start_from: an open_clip folder to begin with, instead of random weights.

    Raises:
        InputError: a checkpoint of other settings is in the way, or the device's memory is too small.
        EncoderError: `start_from` does not fit.
    """
    run = _Run(pictures, settings, device, start_from)
    checkpoint = out / "checkpoint.pt"
    first = run.resume(checkpoint)
    with (
        _explained_memory(settings.batch, device),
        reporter.task("demo CLIP", run.steps, done=first, unit="steps") as task,
    ):
        for step in range(first, run.steps):
            loss = run.step(step)
            note = ""
            if (step + 1) % run.steps_between_checks == 0 or step + 1 == run.steps:
                note = run.check(step + 1, loss)
                run.save(step + 1, checkpoint)
            task.advance(1, note)
    run.write(out)
    return out


class _Run:
    """One training run: the networks, what moves them, and the curve so far."""

    def __init__(self, pictures: Pictures, settings: Settings, device: torch.device, start_from: Path | None):
        self.pictures, self.settings, self.device = pictures, settings, device
        torch.manual_seed(settings.seed)
        self.clip = open_clip.CLIP(**architecture(settings.width, settings.patch_dropout)).to(device)
        if start_from is not None:
            load_earlier(self.clip, start_from)
        tokenize = open_clip.get_tokenizer(f"local-dir:{DEMO_FOLDER}")
        self.vocabulary = build_vocabulary(pictures.data_sets, TEMPLATES, tokenize, self.clip.context_length)
        self.train, self.held_out = split(pictures, settings.held_out, settings.seed)
        self.epoch_size = len(self._order(0))
        self.steps = settings.epochs * self.epoch_size // settings.batch
        if self.steps < 1:
            raise InputError(f"--batch {settings.batch}: more than an epoch's {self.epoch_size} pictures")
        self.steps_between_checks = max(1, self.epoch_size // settings.batch // settings.checks_per_epoch)
        decay = 1 - 1 / max(2.0, settings.average_over * self.steps)
        self.average = AveragedModel(self.clip, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.optimisers = make_optimisers(
            self.clip,
            matrix_learning_rate=settings.matrix_learning_rate,
            learning_rate=settings.learning_rate,
            matrix_weight_decay=settings.matrix_weight_decay,
            weight_decay=settings.weight_decay,
        )
        self.curve: list[dict[str, float]] = []
        self.seconds = {"training": 0.0, "checks": 0.0}
        origin = start_from and hashlib.sha256((start_from / WEIGHTS).read_bytes()).hexdigest()
        self.configuration: dict[str, Any] = json.loads(
            json.dumps(asdict(settings) | {"pictures": pictures.sha256, "start_from": origin})
        )
        self.mean = torch.tensor(PREPROCESSING.mean, device=device).view(3, 1, 1)
        self.std = torch.tensor(PREPROCESSING.std, device=device).view(3, 1, 1)

    def step(self, step: int) -> float:
        """One batch; returns its loss."""
        started = perf_counter()
        settings, progress = self.settings, step / self.steps
        torch.manual_seed(settings.seed * 1_000_003 + step)
        if progress >= settings.all_patches_from:
            self.clip.visual.patch_dropout.prob = 0.0
        self._set_learning_rate(progress)
        members = self._members(step)
        self.clip.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = self._loss(members)
        loss.backward()
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.clip.logit_scale.clamp_(max=math.log(LARGEST_SCALE))
        self.average.update_parameters(self.clip)
        value = loss.item()
        self.seconds["training"] += perf_counter() - started
        return value

    def check(self, step: int, loss: float) -> str:
        """Zero-shot accuracy of the averaged weights on held-out pictures, into the curve."""
        started = perf_counter()
        clip: Any = self.average.module.eval()
        text = _class_text(clip, self.vocabulary, self.device)
        point = {"step": step, "pictures": step * self.settings.batch, "loss": round(loss, 4)}
        for data_set, members in enumerate(self.held_out):
            rivals = self.vocabulary.rivals(data_set).nonzero().flatten()
            labels = torch.from_numpy(self.pictures.labels[members]) - rivals[0]
            answers = self._answers(clip, members, text[rivals.to(self.device)])
            point[f"accuracy_{data_set}"] = float((answers == labels).float().mean())
        self.seconds["checks"] += perf_counter() - started
        self.curve.append(point | {"seconds": round(sum(self.seconds.values()), 1)})
        shown = " and ".join(f"{point[f'accuracy_{i}']:.1%}" for i in range(len(self.held_out)))
        return f"loss {loss:.2f}, {shown} on held-out pictures"

    @torch.no_grad()
    def _answers(self, clip: Any, members: NDArray[np.int64], text: Tensor) -> Tensor:
        """Return the row of text (C, E) that each picture is nearest to."""
        parts = np.array_split(members, math.ceil(len(members) / CHECK_BATCH))
        return torch.cat([(clip.encode_image(self._images(part)) @ text.T).argmax(1).cpu() for part in parts])

    def save(self, step: int, path: Path) -> None:
        """The state that the next step depends on."""
        state = {
            "configuration": self.configuration,
            "step": step,
            "clip": self.clip.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "curve": self.curve,
            "seconds": self.seconds,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_checked(path, buffer.getvalue())

    def resume(self, path: Path) -> int:
        """The step to go on with: 0, or the one behind the checkpoint."""
        if not path.exists():
            return 0
        content = read_checked(path)
        if content is None:
            raise InputError(f"{path}: not a checkpoint, or damaged; remove it to begin again")
        state = torch.load(io.BytesIO(content), weights_only=True, map_location=self.device)
        configuration = state["configuration"]
        if configuration != self.configuration:
            other = [k for k, v in self.configuration.items() if configuration.get(k) != v]
            raise InputError(
                f"{path}: of a run with another {', '.join(other)}; give --out another folder, or remove it"
            )
        self.clip.load_state_dict(state["clip"])
        self.average.load_state_dict(state["average"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.curve, self.seconds = state["curve"], state["seconds"]
        return int(state["step"])

    def write(self, out: Path) -> None:
        """The averaged weights as an open_clip folder, and how they came about."""
        weights = {name: t.half().cpu().contiguous() for name, t in self.average.module.state_dict().items()}
        preprocessing = {
            "mean": PREPROCESSING.mean,
            "std": PREPROCESSING.std,
            "interpolation": PREPROCESSING.interpolation,
            "resize_mode": PREPROCESSING.resize_mode,
        }
        config = {
            "license": LICENCE,
            "model_cfg": architecture(self.settings.width),
            "preprocess_cfg": preprocessing,
        }
        training = {
            "configuration": self.configuration,
            "device": self.device.type,
            "seconds": {name: round(value) for name, value in self.seconds.items()},
            "curve": self.curve,
        }
        write_atomically(out / WEIGHTS, save(weights))
        write_atomically(out / "open_clip_config.json", _json(config))
        write_atomically(out / "training.json", _json(training))

    def _loss(self, members: NDArray[np.int64]) -> Tensor:
        """Cross-entropy between a picture and the names of its own data set, both ways of a mixture."""
        settings, device = self.settings, self.device
        mixed = mix(change(self._images(members), settings.augmentation), settings.augmentation.mix)
        text = self.clip.encode_text(self.vocabulary.draw().to(device), normalize=True)
        embeddings = self.clip.encode_image(mixed.images, normalize=True)
        logits = (self.clip.logit_scale.exp() * embeddings @ text.T).float()
        labels = torch.from_numpy(self.pictures.labels[members]).to(device)
        share = mixed.share
        data_set = self.vocabulary.data_set.to(device)
        own = cross_entropy(logits, labels, data_set, settings.label_smoothing)
        other = cross_entropy(logits, labels[mixed.partner], data_set, settings.label_smoothing)
        return (share * own + (1 - share) * other).mean()

    def _images(self, members: NDArray[np.int64]) -> Tensor:
        pixels = torch.from_numpy(self.pictures.pixels[members]).to(self.device)
        return (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std

    def _members(self, step: int) -> NDArray[np.int64]:
        """The pictures of a step; a batch may reach into the next epoch."""
        first = step * self.settings.batch
        epoch, place = divmod(first, self.epoch_size)
        order = self._order(epoch)[place : place + self.settings.batch]
        missing = self.settings.batch - len(order)
        return np.concatenate([order, self._order(epoch + 1)[:missing]]) if missing else order

    def _order(self, epoch: int) -> NDArray[np.int64]:
        rng = np.random.default_rng((self.settings.seed, epoch))
        repeats = np.array(self.pictures.repeats)[self.pictures.data_set[self.train]]
        return rng.permutation(np.repeat(self.train, repeats))

    def _set_learning_rate(self, progress: float) -> None:
        """Up in a straight line, and down again to zero."""
        warm_up = self.settings.warm_up
        share = min(1.0, (progress + 1 / self.steps) / warm_up, (1 - progress) / (1 - warm_up))
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = share * group["peak"]


def cross_entropy(logits: Tensor, labels: Tensor, data_set: Tensor, smoothing: float) -> Tensor:
    """Return the cross-entropy of each label among the classes of its own data set.

    Args:
        logits: (B, C).
        labels: (B,).
        data_set: (C,) which data set a class belongs to.
        smoothing: share of the target that all rivals divide among themselves.

    Returns:
        (B,)
    """
    rival = data_set == data_set[labels][:, None]
    log_posterior = functional.log_softmax(logits.masked_fill(~rival, -torch.inf), dim=1)
    right = log_posterior.gather(1, labels[:, None]).squeeze(1)
    anywhere = log_posterior.masked_fill(~rival, 0).sum(1) / rival.sum(1)
    return -(1 - smoothing) * right - smoothing * anywhere


@torch.no_grad()
def _class_text(clip: Any, vocabulary: Vocabulary, device: torch.device) -> Tensor:
    """(C, E) of the class names alone, averaged over the templates."""
    rows = []
    for first, plain in zip(vocabulary.first.tolist(), vocabulary.plain.tolist(), strict=True):
        prompts = vocabulary.tokens[first : first + plain].to(device)
        rows.append(class_embeddings(clip.encode_text(prompts, normalize=True)[None]))
    return torch.cat(rows)


@contextmanager
def _explained_memory(batch: int, device: torch.device) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise InputError(f"{device} ran out of memory; try --batch {max(1, batch // 2)}") from None


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()
