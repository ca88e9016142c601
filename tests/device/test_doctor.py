"""`tgems-edge doctor`: checks of machines and model files, and runtimes that crash, hang or are missing."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from tgems_edge.cli import app
from tgems_edge.doctor import probe
from tgems_edge.doctor.checks import check
from tgems_edge.doctor.diagnosis import Diagnosis
from tgems_edge.doctor.probe import Failure, ModelFacts, Runtime, try_runtime
from tgems_edge.machine import describe, observe
from tgems_edge.model_file.card import Quantisation
from tgems_edge.model_file.default import built_in_model

CPU = "CPUExecutionProvider"
GENERIC = ModelFacts("model.onnx", 2_000_000, 8, 18, "int8", "generic")
WELL = Runtime(
    packages=("onnxruntime 1.32.0",),
    numpy="2.2.0",
    model=GENERIC,
    onnxruntime="1.32.0",
    providers=("AzureExecutionProvider", CPU),
    provider=CPU,
    threads=4,
    spinning=False,
    peak_memory=80_000_000,
)


@pytest.fixture
def findings(machine):
    """findings(runtime, name, {path: text}): the findings on a recorded machine, as {name: "what; fix"}."""

    def findings(runtime, name="raspberry_pi_5", changes=None):
        root = machine(name, changes)
        wrong = [found for found in check(describe(root), observe(root), runtime) if found.fix]
        assert len({found.name for found in wrong}) == len(wrong)
        return {found.name: f"{found.what}; {found.fix}" for found in wrong}

    return findings


def version(text, **others):
    return replace(WELL, onnxruntime=text, packages=(f"onnxruntime {text}",), **others)


class TestMachines:
    def test_a_raspberry_pi_5_is_well(self, findings):
        assert findings(WELL) == {}

    def test_a_raspberry_pi_4_that_is_hot_and_short_of_voltage(self, findings):
        found = findings(WELL, "raspberry_pi_4")
        assert set(found) == {"int8", "power", "temperature"}
        assert "no dot product" in found["int8"]
        assert "stronger power supply" in found["power"]
        assert "81 degrees; cool it" in found["temperature"]

    def test_throttling_by_heat_alone_asks_for_cooling(self, findings):
        assert "cool it" in findings(WELL, changes={"usr/bin/vcgencmd": "throttled=0x4"})["power"]

    def test_a_jetson_that_was_short_of_current(self, findings):
        assert set(findings(WELL, "jetson_orin_nano")) == {"power"}

    def test_powersave_is_a_finding_where_it_stops_the_clock(self, findings):
        governor = {"sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n"}
        assert "echo performance" in findings(WELL, changes=governor)["clock"]
        assert findings(WELL, "mini_pc", governor) == {}

    def test_more_threads_than_cores(self, findings):
        found = findings(replace(WELL, threads=8), "mini_pc")
        assert found == {
            "threads": "8 on 4 cores, so threads wait for each other; unset TGEMS_NUM_THREADS, or set it to 4"
        }

    def test_memory_that_does_not_suffice(self, findings):
        found = findings(replace(WELL, threads=1, peak_memory=500_000_000), "container")
        assert "500.0 MB needed, 421.5 MB of 536.9 MB free" in found["memory"]

    def test_a_system_that_shows_nothing_has_no_findings(self, tmp_path):
        runtime = replace(WELL, threads=1)
        assert not [found for found in check(describe(tmp_path), observe(tmp_path), runtime) if found.fix]


class TestPrecision:
    @pytest.mark.parametrize(
        ("target", "machine_name", "words"),
        [
            ("generic", "container", None),
            ("x86", "container", None),
            ("x86-vnni", "container", "answers may be wrong"),
            ("arm64", "container", "answers may be wrong"),
            ("tensorrt", "container", "answers may be wrong"),
            ("x86-vnni", "mini_pc", None),
            ("arm64", "mini_pc", None),
            ("arm64", "raspberry_pi_5", None),
            ("x86-vnni", "raspberry_pi_5", "slow on ARM"),
            ("x86", "raspberry_pi_4", "slow on ARM"),
            ("arm64", "raspberry_pi_4", "no dot product"),
        ],
    )
    def test_int8_for_another_processor(self, findings, target, machine_name, words):
        runtime = replace(WELL, threads=1, model=replace(GENERIC, target=target))
        found = findings(runtime, machine_name).get("int8")
        assert (words in found) if words else found is None

    def test_fp16_gains_nothing_on_a_cpu(self, findings):
        fp16 = replace(GENERIC, precision="fp16", target=None)
        assert "no faster on a CPU" in findings(replace(WELL, model=fp16), "mini_pc")["fp16"]
        assert "overflow" not in findings(replace(WELL, model=fp16), "mini_pc")["fp16"]
        assert "overflow" in findings(replace(WELL, model=fp16))["fp16"]
        assert "overflow" not in findings(version("1.23.2", model=fp16))["fp16"]
        assert findings(replace(WELL, model=fp16, provider="CUDAExecutionProvider")) == {}


class TestVersions:
    def test_1_21_0_is_known_to_die_on_arm(self, findings):
        found = findings(version("1.21.0"))["onnxruntime"]
        assert "illegal instruction" in found
        assert "pip install 'onnxruntime!=1.21.0'" in found
        assert findings(version("1.21.0"), "mini_pc") == {}

    @pytest.mark.parametrize(
        ("text", "old"), [("1.16.3", True), ("1.17.0", False), ("1.17.0+cu12", False), ("2.0", False)]
    )
    def test_the_oldest_is_1_17(self, findings, text, old):
        assert ("onnxruntime" in findings(version(text))) == old

    def test_two_packages_in_one_place(self, findings):
        both = ("onnxruntime 1.32.0", "onnxruntime-gpu 1.31.0")
        found = findings(replace(WELL, packages=both))["onnxruntime"]
        assert "pip uninstall -y onnxruntime onnxruntime-gpu" in found


def broken(step, kind, reason, message, packages=("onnxruntime 1.32.0",)):
    return Runtime(packages, numpy="2.2.0", failures=(Failure(step, kind, reason, message),))


class TestFailures:
    @pytest.mark.parametrize(
        ("message", "fix"),
        [
            ("A module that was compiled using NumPy 1.x cannot be run in NumPy 2.0", "numpy<2"),
            ("libstdc++.so.6: version `GLIBCXX_3.4.29' not found", "update the system"),
            ("cannot enable executable stack as shared object requires", "newer onnxruntime"),
            ("libcublasLt.so.12: cannot open shared object file", "install the CUDA version"),
            ("No module named 'flatbuffers'", "--force-reinstall"),
            ("something new", "pip install 'onnxruntime!=1.32.0'"),
        ],
    )
    def test_an_import_that_fails(self, findings, message, fix):
        found = findings(broken("onnxruntime", "exception", "ImportError", message))
        assert message in found["onnxruntime"]
        assert fix in found["onnxruntime"]

    @pytest.mark.parametrize(
        ("reason", "words"),
        [
            (-signal.SIGILL, "crashed with an illegal instruction"),
            (0xC000001D, "crashed with an illegal instruction"),
            (-signal.SIGSEGV, "crashed with a segmentation fault"),
            (-signal.SIGABRT, "crashed with an abort"),
            (-signal.SIGKILL, "memory runs out"),
            (-signal.SIGTERM, "signal 15"),
            (3, "exit code 3"),
        ],
    )
    def test_deaths_are_told_apart(self, findings, reason, words):
        assert words in findings(broken("onnxruntime", "death", str(int(reason)), ""))["onnxruntime"]

    def test_last_words_may_hold_the_reason(self, findings):
        words = "/opt/rh/stl_vector.h:1130: operator[]: Assertion '__n < this->size()' failed."
        found = findings(broken("onnxruntime", "death", "-6", f"warning: x\n{words}"))["onnxruntime"]
        assert words in found
        assert "nvpmodel -m 0" in found

    def test_1_29_0_needs_a_shell(self, findings):
        died = broken("onnxruntime", "death", "-11", "", ("onnxruntime 1.29.0",))
        assert "ORT_DISABLE_TELEMETRY=1" in findings(died)["onnxruntime"]

    def test_an_import_that_never_ends(self, findings):
        found = findings(broken("onnxruntime", "time", "-9", "loading"))["onnxruntime"]
        assert "importing onnxruntime did not finish" in found

    def test_numpy_may_be_what_is_broken(self, findings):
        died = replace(broken("numpy", "death", "-4", ""), numpy=None)
        assert "--force-reinstall numpy" in findings(died)["numpy"]

    def test_how_to_install_depends_on_the_system(self, findings, monkeypatch):
        missing = broken("onnxruntime", "exception", "ModuleNotFoundError", "No module named 'x'", ())
        assert "pip install 'tgems-edge[cpu]'" in findings(missing)["onnxruntime"]
        assert "NVIDIA's own" in findings(missing, "jetson_orin_nano")["onnxruntime"]
        monkeypatch.setattr("sysconfig.get_config_var", lambda name: "cpython-312-aarch64-linux-musl")
        assert "glibc" in findings(missing)["onnxruntime"]
        monkeypatch.setattr("sys.maxsize", 2**31 - 1)
        assert "64-bit system" in findings(missing)["onnxruntime"]


class TestTrial:
    """The probe in a real child process."""

    @pytest.fixture
    def fake(self, tmp_path, monkeypatch):
        """fake(code, package): install a package that runs this code on import."""

        def fake(code, package="onnxruntime"):
            (tmp_path / "fake" / package).mkdir(parents=True)
            (tmp_path / "fake" / package / "__init__.py").write_text(code)
            monkeypatch.syspath_prepend(tmp_path / "fake")

        return fake

    def test_the_built_in_file_loads_and_runs(self):
        runtime = try_runtime(built_in_model())
        assert runtime.failures == ()
        assert runtime.provider == CPU
        assert runtime.model.ir_version == 8
        assert runtime.model.opset == 18
        assert runtime.spinning is False
        if sys.platform == "linux":
            assert built_in_model().stat().st_size < runtime.peak_memory < 1e9

    def test_an_import_error(self, fake, findings):
        fake("raise ImportError('libcudart.so.12: cannot open shared object file')")
        runtime = try_runtime()
        assert runtime.model.precision == "int8"  # read without onnxruntime
        (failure,) = runtime.failures
        assert failure.kind == "exception"
        assert "install the CUDA" in findings(runtime)["onnxruntime"]

    def test_a_missing_onnxruntime(self, fake, findings, monkeypatch):
        fake("raise ModuleNotFoundError(\"No module named 'onnxruntime'\")")
        monkeypatch.setattr(probe, "_installed", tuple)
        assert "pip install 'tgems-edge[cpu]'" in findings(try_runtime())["onnxruntime"]

    @pytest.mark.skipif(os.name != "posix", reason="signals")
    def test_an_illegal_instruction(self, fake, findings):
        fake("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
        runtime = try_runtime()
        assert runtime.failures == (Failure("onnxruntime", "death", "-4", ""),)
        assert "importing onnxruntime crashed with an illegal instruction" in findings(runtime)["onnxruntime"]

    def test_an_import_that_never_ends(self, fake, findings):
        fake(
            "import time; time.sleep(600)", "numpy"
        )  # the first that is imported, so that it is sure to begin
        runtime = try_runtime(seconds=1)
        assert [(failure.step, failure.kind) for failure in runtime.failures] == [("numpy", "time")]
        assert "importing numpy did not finish" in findings(runtime)["numpy"]

    def test_a_model_that_is_too_new(self, colour_model, rewrite, findings):
        path = rewrite(colour_model(), lambda model: setattr(model, "ir_version", 99))
        runtime = try_runtime(path)
        assert runtime.model.ir_version == 99
        found = findings(runtime)["model"]
        assert "IR version: 99, max supported" in found
        assert found.endswith("; install a newer one")

    def test_nonsense_is_no_model(self, findings, tmp_path):
        path = tmp_path / "model.onnx"
        path.write_bytes(b"nonsense")
        runtime = try_runtime(path)
        assert runtime.onnxruntime
        assert findings(runtime)["model"].startswith(str(path))


class TestCommand:
    @pytest.fixture
    def doctor(self, machine, monkeypatch):
        """doctor(*arguments): run the command on a hot Raspberry Pi 4 with a sound runtime."""

        def doctor(*arguments):
            root = machine("raspberry_pi_4")
            looked = describe(root), observe(root), WELL
            diagnosis = Diagnosis(*looked, tuple(check(*looked)))
            monkeypatch.setattr("tgems_edge.cli.doctor.diagnose", lambda model: diagnosis)
            return CliRunner().invoke(app, ["doctor", *arguments], catch_exceptions=False)

        return doctor

    def test_as_a_user_starts_it(self, colour_model, colour_card):
        how = Quantisation("static", "generic", "minmax", 9, False, (), None)
        model = colour_model(replace(colour_card, precision="int8", quantisation=how))
        done = subprocess.run(
            [sys.executable, "-m", "tgems_edge", "doctor", model],
            capture_output=True,
            encoding="utf-8",
            env={**os.environ, "TGEMS_NUM_THREADS": "1000"},
        )
        assert (done.returncode, done.stderr) == (1, "")
        marks = {tuple(line.split()[:2]) for line in done.stdout.splitlines()}
        assert {("ok", "system"), ("ok", "processor"), ("ok", "model"), ("finding", "threads")} <= marks
        assert "\x1b" not in done.stdout

    def test_one_line_for_each_check(self, doctor):
        done = doctor()
        assert done.exit_code == 1
        names = [line.split()[1] for line in done.stdout.splitlines()]
        assert names == [
            *("system", "processor", "onnxruntime", "model", "int8", "provider"),
            *("threads", "memory", "clock", "power", "temperature"),
        ]

    def test_quiet_shows_findings_only(self, doctor):
        lines = doctor("--quiet").stdout.splitlines()
        assert [line.split()[:2] for line in lines] == [
            ["finding", "int8"],
            ["finding", "power"],
            ["finding", "temperature"],
        ]

    def test_json_is_one_object(self, doctor):
        (line,) = doctor("--json").stdout.splitlines()
        found = json.loads(line)
        assert list(found) == ["machine", "conditions", "runtime", "findings"]
        assert found["machine"]["processor"] == "Cortex-A72"
        assert found["conditions"]["celsius"] == 81.304
        assert found["runtime"]["model"]["opset"] == 18
        assert [finding["name"] for finding in found["findings"]] == ["int8", "power", "temperature"]
        assert all(finding["what"] and finding["fix"] for finding in found["findings"])

    def test_a_name_that_leads_nowhere_is_bad_input(self, doctor):
        done = doctor("missing.onnx")
        assert done.exit_code == 2
        assert done.stderr.startswith("error: missing.onnx: ")
        assert len(done.stderr.splitlines()) == 1
