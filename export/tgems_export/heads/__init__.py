"""Heads, which stand behind an exit and say how well each class fits: their kinds, and their training.

file         Jumper and T-GEM, or an SSA head, and the file they live in
losses       what they are trained with
training     one head: how it is trained, and how it resumes
ssa          the other kind of head, LRA-EE's, and how it is trained
health       the degenerate solutions, noticed
learning     all of it: a folder of pictures to head files
"""
