"""Load a CLIP of open_clip by `--encoder` and `--pretrained`, and run nothing that data brings along.

loading      from a name to the configuration of a CLIP, and to its image tower without training
trust        what a configuration may say
recipes      the activation and the preprocessing that weights were trained with
hub          what comes from the Hugging Face hub
file_kinds   what a file is that is no checkpoint
reading      a checkpoint file, whoever saved it, to named tensors
weights      tensors into the CLIP they were made for
pretrained   all of it: trained weights, and their tokenizer
"""
