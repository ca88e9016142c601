"""Any CLIP: its names and checkpoints, its two towers, and what they say of pictures and prompts.

checkpoints  from a name and a tag or file to a CLIP of open_clip
towers       what image towers are made of, whatever library built them, and where they can be cut
texts        prompts to text embeddings
encoder      all of it: a frozen CLIP, and the activation behind each of its blocks
catalogue    which of open_clip's architectures can be cut
prompts      class names and templates to text embeddings
features     activations of a folder, cached on disk
devices      which accelerator runs it
"""
