"""Heads in, one model file out."""
