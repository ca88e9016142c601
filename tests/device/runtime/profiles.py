"""Colour profiles made by hand, so extreme that what they do is obvious."""

import struct

from PIL import ImageCms

D50 = (0.9642, 1.0, 0.8249)


def srgb():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def red_is_green():
    """sRGB with its first two primaries exchanged."""
    data = bytearray(srgb())
    red, green = data.index(b"rXYZ"), data.index(b"gXYZ")
    data[red : red + 4], data[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(data)


def _profile(space, kind, connection, tags):
    table, blocks = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        content += b"\0" * (-len(content) % 4)
        table += struct.pack(">4sII", name, 132 + 12 * len(tags) + len(blocks), len(content))
        blocks += content
    header = struct.pack(
        ">I4sI4s4s4s12s4s4s4s4s4s8sI3I4s44x",
        128 + len(table) + len(blocks), b"test", 0x02400000, kind, space, connection, b"\x07\xea\0\1\0\1" * 2,
        b"acsp", b"\0" * 4, b"\0" * 4, b"\0" * 4, b"\0" * 4, b"\0" * 8, 0, *_fixed(D50), b"test",
    )  # fmt: skip
    return header + table + blocks


def _fixed(values):
    return [round(value * 65536) for value in values]


WHITE = {b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3I", *_fixed(D50))}


def linear_grey():
    """Half the light is half the number, which sRGB calls 188."""
    return _profile(b"GRAY", b"mntr", b"XYZ ", WHITE | {b"kTRC": b"curv\0\0\0\0" + struct.pack(">I", 0)})


def cyan_is_grey():
    """Four inks of which each alone, or any together, prints the same middle grey."""
    colours = [(255 if ink == 0 else 128, 128, 128) for ink in range(16)]  # L, a, b
    identity = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + struct.pack(">9I", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table += identity * 4 + bytes(value for colour in colours for value in colour) + identity * 3
    return _profile(b"CMYK", b"prtr", b"Lab ", WHITE | {b"A2B0": table})
