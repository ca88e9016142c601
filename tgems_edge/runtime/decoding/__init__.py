"""Decode any picture to 8-bit RGB, the same way in training, at export and on the device.

contents → signatures → exif, jpeg → Pillow → colour, rgb: the bytes, what they are, what is asked of the
decoder, and what is made of its pixels. Nothing here trusts a file: what it may cost is in `limits`.
"""

from __future__ import annotations

from tgems_edge.runtime.decoding.decoder import Picture, decode, decoded

__all__ = ["Picture", "decode", "decoded"]
