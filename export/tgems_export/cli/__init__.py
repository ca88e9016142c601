"""The workstation's commands; their modules import torch only when a command runs."""

import logging
import os

from tgems_export.storage.cache import give_home

# What goes wrong is raised and becomes one line; these libraries log it as well, several times over.
logging.getLogger().setLevel(logging.CRITICAL)
os.environ.setdefault("HF_HUB_VERBOSITY", "critical")
give_home()
