"""Measure the latency, throughput, memory and start-up of model files on this machine: `tgems-edge bench`.

The modules, in the order in which they depend on each other:

    report        the measurements as dataclasses: the JSON that `bench --json` prints
    pictures      the pictures to label: drawn from a seed, or the user's own
    tower_card    the metadata in the ONNX file of a full image tower
    candidates    an opened model file or full tower, run stage by stage
    child         the process that opens one file and labels pictures
    cold_start    starts such processes; measures their start-up and memory
    steady_state  runs several opened files in turn; measures latency and throughput
    make_tower    has the workstation package export the full tower of an encoder
    measure       the whole measurement, from files to a report
"""
