"""Heads, which stand behind an exit and say how well each class fits: their kinds, and their training.

base       the interface
tgem       Jumper and T-GEM
ssa        the MLP of LRA-EE
zero_shot  the texts of the classes alone
registry   the kinds that can be trained
losses     loss functions
training/  training of each kind, and the health of a head
learning   a folder of pictures to head files
file       the head file
"""
