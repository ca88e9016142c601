"""Diagnosis of a machine: is it fit to run a model file, and if not, how to fix it.

In reading order: `probe` runs onnxruntime in another process, which may crash; `failures` explains why it
failed; `checks` judges the machine and the runtime; `diagnosis` puts them together.
"""
