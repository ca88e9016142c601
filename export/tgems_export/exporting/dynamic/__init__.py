"""Several exits in one file, of which each picture takes the first that is sure (LRA-EE, arXiv 2605.26415).

graph    the exits and what their gates look at, in torch
gates    who leaves where: what is fitted, and chosen under a budget
nesting  that graph with everything behind an exit in a branch, in ONNX
"""
