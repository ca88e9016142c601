"""The workstation's commands; their modules import torch only when a command runs."""

import logging

# What goes wrong is raised and becomes one line; these libraries log it as well, several times over.
for library in ("", "huggingface_hub"):
    logging.getLogger(library).setLevel(logging.CRITICAL)
