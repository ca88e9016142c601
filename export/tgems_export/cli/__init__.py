"""The workstation's commands; their modules import torch only when a command runs."""
