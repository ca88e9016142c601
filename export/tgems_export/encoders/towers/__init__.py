"""Image towers that can be cut.

vit          what ViTs are made of, whatever library built them
blocks       their parts, rewired for ONNX
"""
