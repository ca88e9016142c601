"""The workstation side of tgems-edge: trains heads on a frozen CLIP and exports exits as ONNX files.

Arrows point from the top to the bottom; nothing below knows what is above it:

    cli          the commands, a thin file each
    study        the method's tables
    demo         the 64-pixel CLIP, its heads, and the recipe they come from
    builtin      the encoder `photo`, and its recipe
    exporting    heads in, one model file out
    heads        what stands behind an exit: the kinds of head, their training, the head file
    encoders     any CLIP: names, checkpoints, prompts, cached features; in `towers` its image side, to be cut

Beside them: pictures that are drawn from a seed, splits, `storage` (files and tensors, written whole),
threads (the same results on any number), provenance, costs, and the full tower of `bench --against`.
"""

__version__ = "0.2.0"
