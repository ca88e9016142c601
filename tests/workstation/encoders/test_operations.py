"""Operations are formulas of shapes, held here against the same written out by hand."""

import pytest
import torch

from tgems_export.encoders.checkpoints.loading import outlined_tower
from tgems_export.encoders.towers.families import read_tower
from tgems_export.exporting.graph.costs import count_full
from tgems_export.exporting.graph.exit_graph import Cut, ExitGraph
from tgems_export.heads.ssa import SsaHead
from tgems_export.heads.tgem import TGemHead


def vit(tokens, patches, patch, width, blocks, embedding=0, hidden=4, gated=False):
    """A plain ViT: patches, blocks and a projection of one row."""
    maps = 4 * width * width + (3 if gated else 2) * width * int(hidden * width)
    block = 2 * tokens * maps + 4 * tokens * tokens * width
    return 2 * patches * 3 * patch * patch * width + blocks * block + 2 * width * embedding


def latent_pool(tokens, width, hidden):
    """One query attends to the tokens, and goes through an MLP."""
    return 2 * (2 * width + 2 * hidden) * width + 2 * tokens * 2 * width * width + 4 * tokens * width


def query_pool(queries, tokens, width, inner):
    """Queries of width `inner` attend to tokens of another width."""
    maps = 2 * queries * 2 * inner * inner + 2 * tokens * 2 * width * inner
    return maps + 4 * queries * tokens * inner


def conv_stem():
    """MobileCLIP-B's: 224 px to 56, 28 and 14, in 192, 192 and 768 channels."""
    return 2 * (56 * 56 * 192 * 3 * 16 + 28 * 28 * 192 * 192 * 4 + 14 * 14 * 768 * 192 * 4)


EXPECTED = {
    "ViT-B-32": vit(50, 49, 32, 768, 12, 512),
    "ViT-B-16-SigLIP": vit(196, 196, 16, 768, 12) + latent_pool(196, 768, 3072),
    "EVA02-B-16": vit(197, 196, 16, 768, 12, 512, hidden=8 / 3, gated=True),
    "MobileCLIP-B": vit(197, 0, 16, 768, 12, 512) + conv_stem(),
    "coca_ViT-B-32": vit(50, 49, 32, 768, 12) + query_pool(256, 50, 768, 512) + 2 * 512 * 512,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_full_tower_of_every_kind_is_its_formula(name):
    module = outlined_tower(name)
    assert read_tower(module).operations == EXPECTED[name]


def test_what_published_tables_say():
    assert EXPECTED["ViT-B-32"] == 8_817_623_040
    assert vit(65, 64, 8, 128, 12, 128) == 335_845_376


def test_the_demo_tower(encoder):
    assert count_full(encoder).operations == 335_845_376


def test_an_exit_is_what_its_graph_computes(encoder):
    """Width 128, 65 tokens, 4 heads: patches of 192 entries, the last block for what the exit reads."""
    text = torch.randn(7, encoder.embedding_width)
    width, tokens, heads, k = 128, 65, 4, 16
    tgem, ssa = TGemHead(width, 128, k).eval(), SsaHead(width, 128).eval()
    in_front = 2 * tokens * 192 * width + 2 * (vit(tokens, 0, 8, width, 1))
    square = width * width
    # Query, output and MLP of one row; one row a head through the maps to keys and values.
    of_class_token = 2 * (1 + 1 + 2 * heads + 8) * square + 4 * heads * tokens * width
    # Keys and values of all tokens, the rest of the patch tokens, of which the mean is contracted.
    of_mean = 2 * (2 * tokens + 64 * (1 + 1 + 4) + 4) * square + 4 * 64 * tokens * width
    readouts = {tgem: 2 * (width * k + 2 * k * 7), ssa: 2 * (square + width * 128 + 128 * 7)}
    for head, readout in readouts.items():
        for pool, last in {"cls": of_class_token, "mean": of_mean}.items():
            graph = ExitGraph(encoder, [Cut(3, pool, head)], text)
            assert graph.operations == [in_front + last + readout]


def test_later_exits_add_blocks_and_earlier_heads(encoder, random_head):
    text, head = torch.randn(7, encoder.embedding_width), random_head(encoder)
    cuts = [Cut(layer, "cls", head) for layer in (2, 4)]
    first, second = ExitGraph(encoder, cuts, text).operations
    static = [ExitGraph(encoder, [cut], text).operations[0] for cut in cuts]
    own = static[0] - 2 * 65 * 192 * 128 - vit(65, 0, 8, 128, 1)  # block 2 and its head
    assert [first, second] == [static[0], static[1] + own]
