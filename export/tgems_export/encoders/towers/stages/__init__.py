"""Towers of stages, which torch exports in the blocks of their libraries.

tower         what they have in common
efficientnet  timm's EfficientNet and MobileNet
fastvit       MobileCLIP
hybrids       ViTamin, and ViTs with relative positions
pyramids      timm's ConvNeXt and Swin
resnet        open_clip's ModifiedResNet
folding       BatchNorm inside convolutions
"""
