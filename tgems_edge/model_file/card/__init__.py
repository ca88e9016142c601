"""The card: everything a model file says about itself; one module for each of its parts."""

from tgems_edge.model_file.card.calibration import Calibration
from tgems_edge.model_file.card.card import METADATA_KEY, SCHEMA_VERSION, UNSEALED, Card, find_card
from tgems_edge.model_file.card.exits import Dynamic, Exit, ExitCalibration, ExitGate, HeadKind
from tgems_edge.model_file.card.measurements import Accuracy, Gate, Parity, Quantisation, Resizing
from tgems_edge.model_file.card.origin import EncoderId
from tgems_edge.model_file.card.preprocessing import Colour, Preprocessing, resampling
from tgems_edge.model_file.card.samples import Sample, noise_pixels

__all__ = [
    "METADATA_KEY",
    "SCHEMA_VERSION",
    "UNSEALED",
    "Accuracy",
    "Calibration",
    "Card",
    "Colour",
    "Dynamic",
    "EncoderId",
    "Exit",
    "ExitCalibration",
    "ExitGate",
    "Gate",
    "HeadKind",
    "Parity",
    "Preprocessing",
    "Quantisation",
    "Resizing",
    "Sample",
    "find_card",
    "noise_pixels",
    "resampling",
]
