"""Encoders that ship: a package for each, with its recipe, its weights and its heads."""
