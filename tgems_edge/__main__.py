"""Run the `tgems-edge` command with `python -m tgems_edge`."""

import os
import sys

# Python searches the current folder first, where somebody may have put a file numpy.py. It has already
# searched it for a few modules of its own; only `tgems-edge` and `python -I -m tgems_edge` avoid that.
already_safe = sys.flags.isolated or getattr(sys.flags, "safe_path", False)
if sys.path[0] == os.getcwd() and not already_safe:  # noqa: PTH109  (pathlib may not be imported before)
    del sys.path[0]

from tgems_edge.cli import main  # noqa: E402

main()
