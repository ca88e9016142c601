"""`python -m tgems_edge` is the `tgems-edge` command."""

import os
import sys

# Python puts the current folder before all others, where anybody may have put a numpy.py. By now it has
# looked there for a few modules of its own: only `tgems-edge` and `python -I -m tgems_edge` never do.
was_told_not_to = sys.flags.isolated or getattr(sys.flags, "safe_path", False)
if sys.path[0] == os.getcwd() and not was_told_not_to:  # noqa: PTH109  (pathlib may be one of them)
    del sys.path[0]

from tgems_edge.cli import main  # noqa: E402

main()
