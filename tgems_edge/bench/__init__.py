"""How fast model files are on this machine, and what they take of it: `tgems-edge bench`.

Read in the order in which things depend on each other:

    report      what was measured, as dataclasses: the JSON
    album       the pictures: drawn from a seed, or a user's own
    tower_card  what the full image tower of an encoder says about itself
    contenders  a model file or such a tower, run stage by stage
    child       a process that opens one file and labels pictures: the start that is measured
    fresh       starts such processes, and reads what they say
    steady      several files in turn, round by round
    make_tower  has the workstation side make the full tower of an encoder
    measure     all of it: files to a report
"""
