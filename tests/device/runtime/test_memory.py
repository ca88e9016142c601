"""Memory of a loaded model: it does not grow with the number of pictures, and freed memory is returned."""

import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

THREADS = 4
RUNS = 120  # of each thread
KEPT = 12  # megabytes; a leaked picture takes 0.07, so 480 of them would take 34

# Frees a large block, after which glibc keeps freed memory, then every second of many blocks.
FREE_BLOCKS = """
import sys
from pathlib import Path
from tgems_edge.cli.model_file import _return_freed_memory
if sys.argv[1:] == ["return"]:
    _return_freed_memory()
large = bytearray(16 << 20)
del large
blocks = [bytearray(1 << 20) for _ in range(64)]
del blocks[::2]
print(Path("/proc/self/status").read_text("utf-8").split("VmRSS:")[1].split()[0])
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much memory is resident")


def resident():
    """Return the resident memory of this process in megabytes."""
    status = Path("/proc/self/status").read_text("utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


@linux
def test_many_classifications_from_several_threads(classifier, draw):
    """Classify from several threads and compare the memory; benchmarks/soak.py is the long version."""
    pictures = [np.asarray(draw(seed, 120 + 9 * seed, 200)) for seed in range(11)]
    labels = [classifier.classify(picture).label for picture in pictures]

    def count_wrong(thread):
        turns = range(thread, thread + RUNS)
        return sum(classifier.classify(pictures[i % 11]).label != labels[i % 11] for i in turns)

    with ThreadPoolExecutor(THREADS) as pool:
        assert sum(pool.map(count_wrong, range(THREADS))) == 0
        before = resident()
        assert sum(pool.map(count_wrong, range(THREADS))) == 0
        assert resident() - before < KEPT


@linux
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_command_gives_freed_memory_back():
    megabytes = {}
    for how in ("keep", "return"):
        run = [sys.executable, "-c", FREE_BLOCKS, how]
        megabytes[how] = int(subprocess.run(run, capture_output=True, check=True).stdout) / 1024
    assert megabytes["keep"] - megabytes["return"] > 24
