"""`python -m tgems_edge` is the `tgems-edge` command."""

from tgems_edge.cli import main

main()
