"""The workstation side of tgems-edge: trains heads on a frozen CLIP and freezes exits into ONNX files.

Read in the order in which things depend on each other:

    towers       what image towers are made of, whatever library built them
    recipes      the activation and the preprocessing that weights were trained with
    loading      from a name and a tag or file to a CLIP of open_clip
    texts        prompts to text embeddings
    encoder      all of it: a frozen CLIP, and the activation behind each of its blocks
    catalogue    which of open_clip's architectures can be cut
    prompts      class names and templates to text embeddings
    splits       which pictures train, watch, calibrate and measure
    features     activations of a folder, cached on disk
    head         Jumper and T-GEM, or an SSA head, and the file they live in
    losses       what they are trained with
    training     one head: how it is trained, and how it resumes
    ssa          the other kind of head, LRA-EE's, and how it is trained
    health       the degenerate solutions, noticed
    heads        all of it: a folder of pictures to head files
    blocks       the parts of an image tower, rewired for ONNX
    graph        one exit as a graph, and as ONNX
    pictures     drawn from a seed
    parity       the graph against PyTorch
    resizing     whole pictures into the graph, and that against Pillow
    calibration  temperature, label sets and thresholds, fitted after training
    labelled     the pictures that calibrate and measure a file
    quantisation a graph in INT8: ranges, recipes, which is best, and what to spare
    exits        several exits in one graph: gates, thresholds, branches
    drafts       the graph of a file, one exit or several, in fp32, fp16 or INT8
    final        the graph as it will be written: its answers, their worth, its samples
    freeze       all of it: heads and names to one file
    full_tower   what exits are held against, as people run it today

Beside them: costs (parameters and operations), devices, files that appear whole, provenance, and the commands
in cli/. study/ measures the method; demo/ is the built-in CLIP, its heads, and the recipe they come from.
"""

__version__ = "0.2.0"
