"""ViTs, in a graph of our own.

openclip_vit  open_clip's own ViT
timm_vit      timm's ViT and EVA
vit           what both have in common: a chain of residual blocks
parts         the vocabulary in which a library's file says what its blocks are made of
blocks        these parts, rewired for ONNX
"""
