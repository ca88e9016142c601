"""Whether a machine is fit to run a model file, and what to do where it is not.

In reading order: `probe` tries what might crash in another process, `failures` explains how that ended,
`checks` turns it and what `tgems_edge.machine` read into sentences, `diagnosis` does all of it.
"""
