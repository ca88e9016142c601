"""Image towers that can be cut, whatever library built them.

base        the interface: exit points, segments, readouts
families    the family that an image encoder belongs to
vits/       ViTs, in a graph of our own
stages/     all others, in the blocks of their libraries
layers      layers that a runtime likes
operations  operations, counted from shapes
"""
