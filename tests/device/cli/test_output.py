"""Output of commands: safe text for any name, strict JSON, one-line errors."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import typer
from attacks.names import NAMES, NOT_UTF8, file_name, is_calm
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from tgems_edge.cli import app
from tgems_edge.cli.output import print_json, print_lines, print_note
from tgems_edge.cli.tables import aligned
from tgems_edge.errors import ImageError, InputError
from tgems_edge.printable import padded, printable, shortened, width
from tgems_edge.progress import MOST_LEFT_OUT, Reporter

DEVICE_COMMANDS = ["classify", "evaluate", "inspect", "verify", "doctor", "bench"]
NOT_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux takes any bytes as the name of a file")
# Any text: letters, and the stand-ins for bytes that are not UTF-8.
TEXTS = st.text(
    st.characters(exclude_categories=["Cs"])
    | st.characters(categories=["Cs"], min_codepoint=0xDC80, max_codepoint=0xDCFF)
)


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def start(*arguments, redirect="", **variables):
    """Return the finished command, started by a shell."""
    command = ["sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, "-m", "tgems_edge", *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, env={**os.environ, **variables})
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr
    return done


def parse(line):
    def refuse(name):
        raise ValueError(name)

    return json.loads(line.decode("utf-8", "strict"), parse_constant=refuse)


def one_error(done):
    text = done.stderr if isinstance(done.stderr, str) else done.stderr.decode()
    assert text.startswith("error: ") and text.count("\n") == 1 and is_calm(text), text
    return text


@pytest.fixture
def hostile_model(colour_model, calibrated_card):
    """hostile_model(name): write a calibrated model with this name for its first class and its file."""

    def hostile_model(name):
        card = replace(calibrated_card, classes=(name, "green", "blue"), classes_not_trained=(name,))
        return colour_model(card, name=file_name(f"{name}.onnx"))

    return hostile_model


class TestPrintable:
    @given(TEXTS)
    def test_text_stays_on_its_line_and_leaves_a_terminal_as_it_is(self, text):
        shown = printable(text)
        assert len(shown.splitlines()) <= 1 and "\x1b" not in shown
        shown.encode("utf-8", "strict")
        assert printable(shown) == shown

    @pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
    def test_names_that_attack_are_calm(self, name):
        assert is_calm(printable(name))

    @pytest.mark.parametrize("name", ["cat", "Katze, groß", "猫", "نمی\u200cخواهم", "👩\u200d🚀", r"C:\new"])
    def test_names_that_people_give_are_as_they_are(self, name):
        assert printable(name) == name

    def test_what_is_escaped_can_be_recognised(self):
        assert printable("a\nb\x1b[0m\u202e" + NOT_UTF8) == r"a\nb\x1b[0m\u202ecaf\udce9"

    def test_columns_are_as_wide_as_what_is_printed(self):
        rows = aligned([["class", "n"], ["猫", "1"], ["a\nb", "22"]])
        assert rows == ["class   n", "猫      1", r"a\nb   22"]
        assert width(padded("猫", 5)) == 5

    def test_long_lists_are_cut(self):
        assert shortened(["a", "b"], 2) == "a, b"
        assert shortened(map(str, range(8000)), 3) == "0, 1, 2, and 7997 more"


class TestJson:
    @given(TEXTS)
    def test_any_text_comes_back(self, text):
        line = captured_json({"image": text})
        assert json.loads(line)["image"] == text
        assert line.count("\n") == 1 and "\x1b" not in line

    def test_numbers_that_are_not_finite_are_null(self, capsysbinary):
        print_json({"rates": [float("nan"), float("inf"), 1.5], "sets": ({"size": -float("inf")},)})
        assert parse(capsysbinary.readouterr().out) == {"rates": [None, None, 1.5], "sets": [{"size": None}]}

    @NOT_LINUX
    @pytest.mark.parametrize("encoding", ["", "ascii", "latin-1", "cp1252", "utf-16"])
    def test_it_is_utf8_whatever_the_terminal_takes(self, tmp_path, colour_model, encoding):
        names = [NAMES["is wide"], NAMES["turns the direction"], NAMES["breaks the line"], NOT_UTF8]
        paths = [os.fsencode(tmp_path / f"{name}.png") for name in names]
        for path in paths:
            Image.new("RGB", (8, 8), "red").save(path, "png")
        done = start(
            *("classify", "--json", "--quiet", "--model", colour_model(), tmp_path),
            **{"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": encoding},
        )
        assert (done.returncode, done.stderr) == (0, b"")
        lines = done.stdout.splitlines()
        assert {to_bytes(parse(line)["image"]) for line in lines} == set(paths)
        assert all(is_calm(line.decode()) for line in lines)

    @NOT_LINUX
    @pytest.mark.parametrize("encoding", ["ascii", "utf-16"])
    @pytest.mark.parametrize("command", ["inspect", "verify", "doctor", "bench"])
    def test_every_command_prints_it(self, command, encoding):
        options = ["--seconds", "0.05"] if command == "bench" else []
        done = start(command, "--json", *options, LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING=encoding)
        assert done.returncode in (0, 1)
        (line,) = done.stdout.splitlines()
        assert parse(line)

    def test_text_in_memory_takes_it_too(self, monkeypatch):
        monkeypatch.setattr(sys, "stdout", io.StringIO())
        print_json({"a": "é"})
        assert sys.stdout.getvalue() == '{"a": "é"}\n'


class TestNames:
    """Names of classes and files that try to break a line or control the terminal."""

    @NOT_LINUX
    @pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
    def test_classes_and_files(self, tmp_path, hostile_model, name):
        model = hostile_model(name)
        data = tmp_path / "data"
        first = name if name == file_name(name) else "blue"
        for folder, colour in {first: "red", "green": "lime"}.items():
            (data / folder).mkdir(parents=True)
            Image.new("RGB", (8, 8), colour).save(data / folder / file_name(f"{name}.png"))
        (data / "green" / file_name(f"broken {name}.png")).write_text("no picture")
        for as_json in ([], ["--json"]):
            for command in (
                ["classify", "--model", model, data],
                ["evaluate", "--model", model, data],
                ["inspect", model],
                ["verify", model],
            ):
                done = run(*command, *as_json)
                assert done.exit_code in (0, 1, 3)
                assert is_calm(done.stdout + done.stderr), command
                if as_json:
                    records = [parse(line) for line in done.stdout_bytes.splitlines()]
                    assert records and "Infinity" not in done.stdout
        assert run("classify", "--model", model, data).stdout.count("\n") == 2

    @pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
    def test_what_a_file_says_of_itself(self, colour_model, calibrated_card, name):
        onnx = pytest.importorskip("onnx")
        card = replace(
            calibrated_card, versions={name: name}, licence={name: name}, templates=(f"{name} {{}}",)
        )
        path = colour_model(card)
        model = onnx.load(path)
        model.producer_name, model.producer_version = name, name
        model.graph.node[0].op_type = name
        model.metadata_props.add(key="date", value=name)
        model.metadata_props.add(key=name, value=name)
        path.write_bytes(model.SerializeToString())
        text, line = run("inspect", path), run("inspect", path, "--json")
        assert printable(name) in " ".join(text.stdout.split()) and is_calm(text.stdout + text.stderr)
        assert parse(line.stdout_bytes)["header"]["metadata"][name] == name and is_calm(line.stdout)

    @NOT_LINUX
    @pytest.mark.parametrize("command", DEVICE_COMMANDS)
    @pytest.mark.parametrize("name", [*NAMES.values(), NOT_UTF8], ids=[*NAMES, "is not UTF-8"])
    def test_errors_about_files_are_one_line(self, command, name):
        done = run(command, f"missing {name}")
        assert done.exit_code in (1, 2)
        lines = done.stderr.splitlines()
        assert lines[-1].startswith("error: missing ") and is_calm(done.stdout + done.stderr)

    def test_progress_and_warnings(self, capsys):
        reporter = Reporter()
        for name in NAMES.values():
            with reporter.task(name, 1, unit="pictures") as task:
                task.advance(1, name)
            reporter.say(name)
            reporter.warn(name)
        said = capsys.readouterr().err
        assert said.count("\n") == 3 * len(NAMES) and is_calm(said)
        assert "[red]cat[/red]" in said and ":warning:" in said

    @pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
    def test_a_bar_on_a_terminal_shows_them_as_they_are(self, monkeypatch, name):
        monkeypatch.setenv("TERM", "xterm")
        reporter = Reporter()
        reporter.console = Console(file=io.StringIO(), force_terminal=True, width=200, color_system=None)
        with reporter.task(name, 1, unit="pictures") as task:
            task.advance(1, name)
        shown = reporter.console.file.getvalue()
        assert printable(name) in shown and "\x1b]" not in shown and "\x1b[31m" not in shown

    def test_of_many_pictures_that_are_left_out_only_the_first_are_named(self, capsys):
        reporter = Reporter(quiet=True)
        for number in range(1000):
            reporter.leave_out(ImageError(f"{number}.png: broken"))
        *named, more = capsys.readouterr().err.splitlines()
        assert len(named) == MOST_LEFT_OUT and named[-1].startswith(
            f"warning: left out: {MOST_LEFT_OUT - 1}."
        )
        assert "more pictures, which are not listed" in more


class TestFailures:
    @pytest.fixture
    def fail(self, monkeypatch):
        """fail(error): run `inspect` with this error inside."""

        def fail(error):
            def read_header(path):
                raise error

            monkeypatch.setattr("tgems_edge.cli.inspect.read_header", read_header)
            return run("inspect")

        return fail

    @pytest.mark.parametrize(
        "error",
        [
            ValueError("two\nlines \x1b[31m"),
            RecursionError(),
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
            AssertionError(),
            EOFError(),
            KeyError("x"),
            StopIteration(),
            ImportError("cannot import name 'x'", name="tgems_edge.runtime.classifier"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_a_mistake_of_ours_is_one_line_and_a_code_of_its_own(self, fail, error):
        done = fail(error)
        line = one_error(done)
        assert done.exit_code == 70
        assert f"unexpected {type(error).__name__} in inspect.py, line " in line and "TGEMS_DEBUG=1" in line

    def test_debugging_shows_where(self, fail, monkeypatch):
        monkeypatch.setenv("TGEMS_DEBUG", "1")
        done = fail(ValueError("\x1b[31m"))
        assert done.exit_code == 70
        *trace, last = done.stderr.splitlines()
        assert trace[0].startswith("Traceback") and any("read_header" in line for line in trace)
        assert last.startswith("error: unexpected ValueError in inspect.py") and is_calm(done.stderr)

    @pytest.mark.parametrize(
        ("error", "code", "words"),
        [
            (MemoryError(), 2, "out of memory"),
            (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), 2, "out of memory (CUDA)"),
            (OSError(28, "No space left on device", "x.onnx"), 2, "x.onnx: No space left"),
            (PermissionError(13, "Permission denied", b"x\xff"), 2, r"x\udcff: Permission denied"),
            (ModuleNotFoundError("no", name="torch"), 2, "pip install 'tgems-edge[export]'"),
            (ImportError("libgomp.so.1: cannot open", name="scipy"), 2, "scipy cannot be imported (libgomp"),
            (InputError("what it was"), 2, "error: what it was\n"),
            (KeyboardInterrupt(), 130, "interrupted"),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_what_the_user_can_act_on_is_named(self, fail, error, code, words):
        done = fail(error)
        assert done.exit_code == code
        assert words in one_error(done)

    def test_a_reader_that_has_gone_ends_it_quietly(self, fail):
        done = fail(BrokenPipeError(32, "Broken pipe"))
        assert (done.exit_code, done.stdout, done.stderr) == (141, "", "")

    @pytest.mark.parametrize(
        "arguments",
        [["nothing"], ["inspect", "--nothing"], ["classify"], ["classify", "x", "--top", "a"], ["--nothing"]],
        ids=" ".join,
    )
    def test_wrong_usage_is_one_line_that_names_the_help(self, arguments):
        done = run(*arguments)
        assert done.exit_code == 2
        assert "--help`" in one_error(done)

    def test_a_wrong_name_of_an_option_cannot_drive_the_terminal(self):
        for name in NAMES.values():
            one_error(run("inspect", f"--{name}"))


@NOT_LINUX
class TestStreams:
    @pytest.mark.parametrize("arguments", [["inspect"], ["inspect", "--json"], ["--version"], ["--help"]])
    def test_closed_or_full_standard_output_is_an_error(self, arguments):
        for redirect in (">&-", ">/dev/full"):
            done = start(*arguments, redirect=redirect)
            assert done.returncode == 2
            assert "standard output" in one_error(done) or arguments == ["--help"]

    @pytest.mark.parametrize("arguments", [["inspect"], ["inspect", "--json"], ["doctor"]], ids=" ".join)
    def test_a_pipe_without_a_reader_ends_quietly(self, arguments):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "tgems_edge", *arguments]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE)
        os.close(writer)
        assert (done.returncode, done.stderr) == (141, b"")

    @pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full", "<&- 2>&-"])
    def test_without_standard_error_the_work_goes_on(self, redirect):
        done = start("verify", redirect=redirect)
        assert done.returncode == 0
        assert b"reproduced" in done.stdout
        assert start("inspect", "missing", redirect=redirect).returncode == 2

    def test_writing_to_a_closed_stream_in_python_says_so(self, monkeypatch):
        monkeypatch.setattr(sys, "stdout", None)
        monkeypatch.setattr(sys, "stderr", None)
        print_note("lost")
        with pytest.raises(InputError, match="standard output is closed"):
            print_lines(["a"])


class TestEveryCommand:
    @pytest.fixture
    def commands(self):
        group = typer.main.get_command(app)
        context = typer.Context(group, info_name="tgems-edge")
        return {name: group.get_command(context, name) for name in group.list_commands(context)}

    def test_help_has_an_example(self, commands):
        assert commands.keys() >= set(DEVICE_COMMANDS)
        for name, command in commands.items():
            assert f"Example: tgems-edge {name}" in command.help, name

    def test_help_is_calm_and_fits_a_terminal(self, commands):
        for name in commands:
            done = run(name, "--help")
            assert done.exit_code == 0 and is_calm(done.stdout)
            assert max(map(len, done.stdout.splitlines())) <= 80

    def test_exit_codes_are_listed(self):
        text = " ".join(run("--help").stdout.split())
        for code in ("0 done", "1 finding", "2 bad input", "3 parity", "4 accuracy", "70 ", "130 ", "141 "):
            assert code in text

    def test_quiet_says_nothing_and_no_command_colours_what_is_no_terminal(self, tmp_path, colour_model):
        Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
        for name in ("red", "green"):
            (tmp_path / "data" / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), name).save(tmp_path / "data" / name / "1.png")
        for arguments in (
            ["classify", "--model", colour_model(), tmp_path / "red.png"],
            ["evaluate", "--model", colour_model(), tmp_path / "data"],
            ["verify"],
        ):
            done = run(*arguments, "--quiet")
            assert (done.exit_code, done.stderr) == (0, "")
            assert "\x1b" not in run(*arguments).output
        assert "\x1b" not in run("doctor").output and "\x1b" not in run("inspect").output


def captured_json(record):
    """Return the printed line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
        print_json(record)
        return sys.stdout.buffer.getvalue().decode("utf-8", "strict")


def to_bytes(name):
    """Return the name of a file as bytes on disk, for any encoding that the process assumed."""
    return name.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("command", ["train", "export", "study"])
def test_a_command_of_the_workstation_says_what_to_install_where_it_is_missing(command, monkeypatch):
    monkeypatch.setattr("tgems_edge.cli._workstation_commands", dict)
    done = CliRunner().invoke(app, [command, "pictures"])
    assert done.exit_code == 2
    assert done.stderr == f"error: {command} runs on a workstation: pip install 'tgems-edge[export]'\n"
