"""Facts read from machines: recorded boards, this machine, and a system that reports nothing.

The recorded trees are assembled from documentation and reports; none was verified on hardware.
"""

import os
import sys
from dataclasses import astuple
from pathlib import Path

import pytest

from tgems_edge.machine import Conditions, Machine, describe, observe, own_peak_memory, physical_cores

CPUS = "sys/devices/system/cpu"


class TestBoards:
    def test_a_raspberry_pi_4(self, machine):
        assert describe(machine("raspberry_pi_4")) == Machine(
            board="Raspberry Pi 4 Model B Rev 1.4",
            system="Linux 6.1.21-v8+",
            architecture="aarch64",
            processor="Cortex-A72",
            features=("asimd",),
            cores=4,
            threads=4,
            memory=1894604 * 1024,
            swap=102396 * 1024,
        )

    def test_a_raspberry_pi_4_that_is_hot_and_short_of_voltage(self, machine):
        assert observe(machine("raspberry_pi_4")) == Conditions(
            governor="ondemand",
            power_mode=None,
            megahertz=1500,
            celsius=81.304,
            throttled=("under-voltage", "throttled", "under-voltage since boot", "throttled since boot"),
            load=0.52,
            free=1511508 * 1024,
        )

    def test_a_raspberry_pi_5_has_the_dot_product_and_a_tool_that_tells_of_throttling(self, machine):
        root = machine("raspberry_pi_5")
        assert describe(root).processor == "Cortex-A76"
        assert describe(root).features == ("asimd", "asimdhp", "asimddp")
        assert observe(root).throttled == ()

    def test_a_jetson_orin(self, machine):
        root = machine("jetson_orin_nano")
        found, conditions = describe(root), observe(root)
        assert found.board == "NVIDIA Jetson Orin Nano Developer Kit"
        assert found.system == "Linux 5.15.136-tegra, Jetson Linux 36.3.0"
        assert (found.processor, found.cores) == ("Cortex-A78AE", 6)
        assert conditions.power_mode == "15W"
        assert conditions.throttled == ("over-current since boot",)
        assert conditions.celsius == 50.468  # the disabled sensor is ignored

    def test_hyperthreads_are_no_cores(self, machine):
        found = describe(machine("mini_pc"))
        assert (found.cores, found.threads) == (4, 8)
        assert found.processor == "11th Gen Intel(R) Core(TM) i5-1135G7 @ 2.40GHz"
        assert found.board == "NUC11TNHi5"
        assert {"avx2", "avx512_vnni"} < set(found.features)

    def test_an_x86_does_not_say_whether_it_is_throttled(self, machine):
        conditions = observe(machine("mini_pc"))
        assert conditions.throttled is None
        assert (conditions.celsius, conditions.megahertz, conditions.governor) == (62, 3900, "powersave")


class TestLimits:
    def test_a_quota_counts_in_whole_processors(self, machine):
        found = describe(machine("container"))
        assert (found.cores, found.threads) == (1, 1)
        assert "avx512_vnni" not in found.features

    def test_memory_is_what_the_container_may_have(self, machine):
        root = machine("container")
        assert describe(root).memory == 512 * 2**20
        assert observe(root).free == 512 * 2**20 - (209715200 - 94371840)  # its file cache can be freed

    def test_the_older_control_groups_count_as_well(self, machine):
        root = machine("container_v1")
        assert (describe(root).cores, describe(root).threads) == (3, 3)
        assert describe(root).memory == 2**30
        assert observe(root).free == 2**30 - (314572800 - 52428800)

    def test_the_groups_above_ones_own_count_as_well(self, machine):
        group = "sys/fs/cgroup/user.slice/cpu.max"
        tree = {"proc/self/cgroup": "0::/user.slice/app.scope\n", group: "200000 100000\n"}
        assert physical_cores(machine("mini_pc", tree)) == 2

    @pytest.mark.parametrize("unlimited", ["max 100000\n", "", "max\n"])
    def test_no_quota_is_no_limit(self, machine, unlimited):
        tree = {"sys/fs/cgroup/cpu.max": unlimited, "sys/fs/cgroup/memory.max": "max\n"}
        assert describe(machine("container", tree)).threads == 8
        assert describe(machine("container", tree)).memory == 16205228 * 1024

    @pytest.mark.parametrize(("allowed", "cores"), [("0-3", 4), ("0,4", 1), ("1,2,5-6", 2), ("7", 1)])
    def test_only_processors_that_the_process_may_run_on_count(self, machine, allowed, cores):
        root = machine("mini_pc", {"proc/self/status": f"Name:\tx\nCpus_allowed_list:\t{allowed}\n"})
        assert physical_cores(root) == cores


class TestThrottling:
    @pytest.mark.parametrize(
        ("said", "reasons"),
        [
            ("throttled=0x0", ()),
            ("throttled=0x50000", ("under-voltage since boot", "throttled since boot")),
            ("throttled=0x8", ("soft temperature limit",)),
            ("throttled=0x20002", ("frequency capped", "frequency capped since boot")),
            ("VCHI initialization failed", None),
            ("", None),
        ],
    )
    def test_words_of_the_tool(self, machine, said, reasons):
        assert observe(machine("raspberry_pi_5", {"usr/bin/vcgencmd": said})).throttled == reasons

    def test_the_file_has_another_place_on_newer_boards(self, machine):
        path = "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled"
        assert observe(machine("raspberry_pi_5", {path: "4\n"})).throttled == ("throttled",)

    def test_a_tool_that_hangs_is_left_alone(self, machine, monkeypatch):
        root = machine("raspberry_pi_5")
        (root / "usr/bin/vcgencmd").write_text("#!/bin/sh\nexec sleep 60\n")
        monkeypatch.setattr("tgems_edge.machine.SECONDS_FOR_A_TOOL", 0.2)
        assert observe(root).throttled is None

    def test_noise_around_the_power_mode_is_left_out(self, machine):
        said = "NV Fan Mode:quiet\nNV Power Mode: MODE_15W_6CORE\n7\nNVPM ERROR: Error opening /sys/x: 13"
        root = machine("jetson_orin_nano", {"usr/sbin/nvpmodel": said})
        assert observe(root).power_mode == "15W_6CORE"


class TestOtherSystems:
    def test_a_system_that_shows_nothing_is_no_error(self, tmp_path):
        found = describe(tmp_path)
        assert (found.board, found.processor, found.features) == (None, None, ())
        assert (found.memory, found.swap) == (0, 0)
        assert found.cores == found.threads == os.cpu_count()
        assert astuple(observe(tmp_path)) == (None, None, None, None, None, None, 0)

    def test_nonsense_in_every_file_is_no_error(self, machine):
        for nonsense in ("\0\xff\n", "a: b c\n:\n", "-1\n", "9,x-,3-1,\n", "0::\n:::\n1:cpu:/..\n"):
            paths = [line[4:-4] for line in recorded("container_v1") if line.startswith("==> ")]
            root = machine("raspberry_pi_4", dict.fromkeys(paths, nonsense))
            assert describe(root).cores >= 1
            assert observe(root).free >= 0

    def test_two_kinds_of_cores_have_what_both_have(self, machine):
        text = "Features\t: asimd asimddp i8mm\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n"
        text += "Features\t: asimd asimddp\nCPU implementer\t: 0x99\nCPU part\t: 0xfff\n"
        found = describe(machine("raspberry_pi_5", {"proc/cpuinfo": text}))
        assert found.features == ("asimd", "asimddp")
        assert found.processor == "Cortex-A76 + ARM 0x99 0xfff"


def recorded(name):
    return (Path(__file__).parent / "machines" / f"{name}.txt").read_text("utf-8").splitlines()


class TestThisMachine:
    def test_it_is_described(self):
        found = describe()
        assert found.system.startswith(os.uname().sysname)
        assert 1 <= found.cores <= found.threads <= os.cpu_count()
        assert observe().free <= found.memory

    @pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is Linux's")
    def test_affinity_is_respected(self):
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(before)})
        try:
            assert physical_cores() == 1
        finally:
            os.sched_setaffinity(0, before)

    @pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
    def test_its_memory_was_more_than_what_is_held(self):
        held = bytearray(50 * 2**20)
        assert own_peak_memory() > len(held)
