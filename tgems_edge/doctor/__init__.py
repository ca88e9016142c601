"""Whether a machine is fit to run a model file, and what to do where it is not.

In reading order: `probe` runs onnxruntime in another process, which may crash; `failures` explains why it
failed; `checks` judges the machine and the runtime; `diagnosis` puts them together.
"""
