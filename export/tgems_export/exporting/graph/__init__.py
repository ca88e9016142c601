"""Exits as one ONNX graph, from pixels to the answer of each.

exit_graph   the tower up to the last exit, and behind each exit its head and its gate, in torch
onnx_graph   that as ONNX, with names for what is set later and for what INT8 has to know
assembly     one answer for each picture: everything computed, or everything behind an exit in a branch
resizing     whole pictures into the graph, and that against Pillow
resampling   the arithmetic of that, as matrix products
costs        what an exit keeps of a tower: parameters and operations
"""
