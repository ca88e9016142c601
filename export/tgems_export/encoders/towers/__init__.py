"""Image towers that can be cut, whatever library built them.

base          what every tower offers: exit points, segments, readouts
families      which family an image encoder belongs to

ViTs, in a graph of our own:

openclip_vit  open_clip's own ViT
timm_vit      timm's ViT and EVA
vit           what both have in common: a chain of residual blocks
parts         the vocabulary in which a library's file says what its blocks are made of
blocks        these parts, rewired for ONNX
layers        layers that a runtime likes

All others, as torch exports their blocks:

staged        what they have in common: stages of blocks
efficientnet  timm's EfficientNet and MobileNet
fastvit       MobileCLIP
hybrids       ViTamin, and ViTs with relative positions
pyramids      timm's ConvNeXt and Swin
resnet        open_clip's ModifiedResNet
folding       BatchNorm inside convolutions

operations    counted from shapes, for all of them
"""
