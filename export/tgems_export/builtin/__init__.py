"""The recipes of the encoders that ship.

wordnet   names for everything, and what lies below what
names     texts for the text tower to learn, and where each should point
photo     the encoder `photo`: a trained image tower, and a text tower that learns to point at it
"""
