"""The training of the text tower of `photo`: it learns to point from every name to where the name belongs.

Locked-image tuning (arXiv 2111.07991) without pictures: directions in the joint embedding take their place.
Every step draws from a generator seeded with (seed, step), so that the state between two steps is weights and
optimiser and nothing else, and a run that was killed goes on to the same bytes.

B prompts of a step, L tokens, U tokens in use, W width of the text tower, E width of the joint embedding.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional

from tgems_edge.errors import InputError
from tgems_edge.progress import Reporter
from tgems_export.builtin.photo.names import Names
from tgems_export.builtin.photo.prompts import Prompts
from tgems_export.storage.files import read_checked, write_checked

__all__ = ["Settings", "TextTower", "accuracy_of_names", "train_text"]

PROMPTS_AT_ONCE = 64  # of like length
PARTS = ("transformer", "ln_final")
PARAMETERS = ("positional_embedding", "text_projection")


@dataclass(frozen=True)
class Settings:
    """Settings of the training; the reason stands beside each value."""

    steps: int = 2400
    batch: int = 256
    known_share: float = 0.4  # of a batch; 3 100 of 25 000 names are of classes or above them
    learning_rate: float = 2e-3
    warm_up: int = 100  # steps
    weight_decay: float = 0.01
    sharpness: float = 30.0  # what cosines with the prototypes are multiplied with to tell classes apart
    pointing: float = 10.0  # weight of the cosines beside telling the classes apart
    steps_between_checkpoints: int = 100
    seed: int = 0


class TextTower(nn.Module):
    """The text tower of an open_clip CLIP, with embeddings of the tokens in use alone."""

    def __init__(self, clip: open_clip.CLIP, used: Tensor):
        """Take the tokens in use, (U,), out of the table of a CLIP."""
        super().__init__()
        self.clip = clip
        self.used = used  # (U,)
        self.table = nn.Parameter(clip.token_embedding.weight.detach()[used].clone())

    def forward(self, prompts: Tensor) -> Tensor:
        """Return embeddings of length 1, (B, E), of prompts (B, L) that give places in `used`.

        Equal to `encode_text`, but prompts of like length are filled up to the longest of them alone: causal
        attention does not see what fills up.
        """
        order = prompts.argmax(1).argsort(stable=True)  # the end of text has the largest number
        said = torch.cat([self._say(part) for part in prompts[order].split(PROMPTS_AT_ONCE)])
        return functional.normalize(said[order.argsort()] @ self.clip.text_projection, dim=1)

    def _say(self, prompts: Tensor) -> Tensor:
        """Return the states (B, W) at the ends of prompts."""
        ends = prompts.argmax(1)
        length = int(ends.max()) + 1
        states = self.table[prompts[:, :length]] + self.clip.positional_embedding[:length]
        states = self.clip.transformer(states, attn_mask=self.clip.attn_mask[:length, :length])
        return self.clip.ln_final(states[torch.arange(len(prompts)), ends])

    def trained(self) -> dict[str, Tensor]:
        """Return all that training changes, by name."""
        found: dict[str, Tensor] = {"table": self.table}
        found |= {name: getattr(self.clip, name) for name in PARAMETERS}
        for part in PARTS:
            found |= {f"{part}.{name}": p for name, p in getattr(self.clip, part).named_parameters()}
        return found

    @torch.no_grad()
    def write_back(self) -> None:
        """Give the CLIP its embeddings of tokens.

        Those of tokens that no name has are zeros, which take no room in a wheel.
        """
        self.clip.token_embedding.weight.zero_()
        self.clip.token_embedding.weight[self.used] = self.table


def train_text(
    tower: TextTower,
    prompts: Prompts,
    names: Names,
    settings: Settings,
    checkpoint: Path,
    reporter: Reporter,
) -> None:
    """Train the text tower; interrupted training goes on where it stopped.

    Raises:
        InputError: the checkpoint is of a run with other settings or names.
    """
    trained = tower.trained()
    optimiser = torch.optim.AdamW(
        trained.values(),
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=settings.weight_decay,
        fused=True,  # a third of the time on a processor
    )
    configuration = json.dumps(asdict(settings) | {"names": len(names.names)})
    start = _resume(checkpoint, configuration, trained, optimiser)
    share = round(settings.known_share * settings.batch)
    with reporter.task("training the text tower", settings.steps, done=start, unit="steps") as task:
        for step in range(start, settings.steps):
            generator = torch.Generator().manual_seed(settings.seed * 1_000_000 + step)
            known = torch.randint(names.known, (share,), generator=generator)
            others = torch.randint(len(names.names), (settings.batch - share,), generator=generator)
            members = torch.cat([known, others])
            said = tower(prompts.draw(members.tolist(), generator))
            cosine = (said * names.targets[members]).sum(1).mean()
            logits = settings.sharpness * said @ names.prototypes.T
            labels = names.labels[members]
            apart = functional.cross_entropy(logits, labels, ignore_index=-1, reduction="sum") / share
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * _schedule(step, settings)
            optimiser.zero_grad()
            (settings.pointing * (1 - cosine) + apart).backward()
            optimiser.step()
            if (step + 1) % settings.steps_between_checkpoints == 0 or step + 1 == settings.steps:
                _save(checkpoint, step + 1, configuration, trained, optimiser)
            task.advance(1, f"cosine {float(cosine.detach()):.3f}")


@torch.no_grad()
def accuracy_of_names(tower: TextTower, prompts: Prompts, names: Names, batch: int = 256) -> float:
    """Return the share of the names of classes that point at the prototype of their own class."""
    members = torch.nonzero(names.labels >= 0).flatten()
    found = torch.cat([tower(prompts.plain(part.tolist())) for part in members.split(batch)])
    return float(((found @ names.prototypes.T).argmax(1) == names.labels[members]).float().mean())


def _schedule(step: int, settings: Settings) -> float:
    """Return the share of the learning rate: a warm-up, then half a cosine."""
    if step < settings.warm_up:
        return (step + 1) / settings.warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - settings.warm_up) / (settings.steps - settings.warm_up)))


def _save(
    path: Path, step: int, configuration: str, trained: dict[str, Tensor], optimiser: torch.optim.Optimizer
) -> None:
    state = {"step": step, "configuration": configuration, "optimiser": optimiser.state_dict()}
    buffer = io.BytesIO()
    torch.save(state | {"weights": {name: p.detach() for name, p in trained.items()}}, buffer)
    write_checked(path, buffer.getvalue())


def _resume(
    path: Path, configuration: str, trained: dict[str, Tensor], optimiser: torch.optim.Optimizer
) -> int:
    """Return the step to go on with; a damaged checkpoint is as good as none."""
    content = read_checked(path)
    if content is None:
        return 0
    state = torch.load(io.BytesIO(content), weights_only=True)
    if state["configuration"] != configuration:
        raise InputError(f"{path}: of a run with other settings; give --out another folder, or remove it")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(state["weights"][name])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])
