"""Any CLIP: its names and checkpoints, its two towers, and what they say of pictures and prompts.

Read in the order in which things depend on each other:

    towers       what image towers are made of, whatever library built them
    recipes      the activation and the preprocessing that weights were trained with
    loading      from a name and a tag or file to a CLIP of open_clip
    texts        prompts to text embeddings
    encoder      all of it: a frozen CLIP, and the activation behind each of its blocks
    catalogue    which of open_clip's architectures can be cut
    prompts      class names and templates to text embeddings
    features     activations of a folder, cached on disk
    devices      which accelerator runs it
"""
