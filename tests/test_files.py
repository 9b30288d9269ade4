"""Tests every writer with full disks, failing calls of the system, and folders that cannot be written."""

import errno
import fcntl
import itertools
import json
import os
import re
import resource
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from test_training import PRESET

import yolact
from yolact import cli, files
from yolact.benchmark.report import json_target, write_json
from yolact.benchmark.untrained import untrained_detector
from yolact.config import PRESETS
from yolact.convert import convert
from yolact.data.shapes import write_dataset
from yolact.evaluation.results import Results
from yolact.evaluation.scores import Scores, Summary
from yolact.files import WriteError, written_whole
from yolact.models.yolact import Yolact
from yolact.training.checkpoints import CheckpointFolder
from yolact.training.logs import write_curves, write_report
from yolact.weights.checkpoints import save_weights

FULL = "No space left on device"
PICTURE = (torch.arange(3 * 200 * 300) % 251).to(torch.uint8).view(3, 200, 300)


@pytest.fixture(scope="module")
def detector() -> yolact.Detector:
    return untrained_detector(Yolact(PRESET).eval())


@contextmanager
def largest_file(size: int):
    """Lets the system refuse to write a file beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Faults:
    """Lets one call of the system fail that makes, writes or renames something under `folder`.

    number: which of these calls fails, from 1; 0 for none.
    name: of the file that counts; others do not.
    """

    CHANGING = ("open", "write", "fsync", "close", "replace", "mkdir")

    def __init__(self, folder: Path, number: int, name: str = "", calls: tuple[str, ...] = CHANGING):
        self.folder, self.number, self.name, self.calls = str(folder), number, name, calls
        self.count = 0
        self.whole: set[str] = set()

    @contextmanager
    def injected(self):
        with pytest.MonkeyPatch.context() as patch:
            for call in self.calls:
                patch.setattr(os, call, self._failing(getattr(os, call), call))
            yield self

    def _failing(self, function, call):
        def called(first, *arguments, **options):
            path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else os.fspath(first)
            concerned = str(path).startswith(self.folder) and self.name in os.path.basename(path)
            if (call == "open" and not arguments[0] & os.O_CREAT) or (call == "mkdir" and os.path.exists(path)):
                concerned = False
            if call == "replace":
                self.whole.add(os.fspath(arguments[0]))
            if call == "close" and str(path) in self.whole:  # nothing is lost any more
                concerned = False
            if concerned:
                self.count += 1
                if self.count == self.number:
                    if call == "write":
                        function(first, arguments[0][: len(arguments[0]) // 2])
                    elif call == "close":
                        function(first)
                    raise OSError(errno.ENOSPC, FULL)
            return function(first, *arguments, **options)

        return called


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# The functions that write


def report(folder: Path, _) -> None:
    summary = Summary(*[1.0] * 12)
    write_report(folder, "title", Scores(summary, summary, (), {}))


def figures(folder: Path, _) -> None:
    with json_target(folder / "figures.json") as target:
        write_json(target, {"processor": "x"}, [])


def results(folder: Path, _) -> None:
    Results({"image_id": image, "text": "x" * 3000} for image in range(5)).write(folder / "results.json")


def model(folder: Path, detector: yolact.Detector) -> None:
    with pytest.MonkeyPatch.context() as patch:  # scripting the detector takes seconds
        patch.setattr(sys.modules["yolact.export"], "script", lambda _: torch.jit.script(torch.nn.Linear(30, 40)))
        yolact.export(detector, folder / "model.pt")


def original(folder: Path, detector: yolact.Detector) -> None:
    with pytest.MonkeyPatch.context() as patch:  # the networks that the original has are large
        patch.setattr("yolact.convert.load", lambda *_, **options: detector)
        patch.setattr("yolact.convert._unknown_to_original", lambda _: "")
        convert("tiny", folder / "tiny.pth", "original")


WRITERS = {
    "picture": lambda folder, _: files.write_picture(folder / "picture.png", PICTURE),
    "text": lambda folder, _: files.write_text(folder / "a.txt", "text"),
    "weights": lambda folder, d: save_weights(d.model, folder / "w.safetensors", d.class_names),
    "checkpoint": lambda folder, _: CheckpointFolder(folder, 2).save(3, {"a": torch.ones(1), "b": torch.ones(9999)}),
    "original": original,
    "model": model,
    "results": results,
    "curves": lambda folder, _: write_curves(folder),
    "report": report,
    "figures": figures,
    "data set": lambda folder, _: write_dataset(folder / "new", train=1, val=1, size=64),
}


def error_of(write, *arguments) -> str:
    try:
        write(*arguments)
    except WriteError as error:
        return str(error)
    return ""


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def check_nothing_is_half_done(folder: Path, whole: dict[str, bytes], old: bytes | None) -> None:
    """Every file is the old or the new one, and nothing else is there."""
    assert not [path for path in folder.rglob("*") if ".part" in path.name]
    for file, content in contents(folder).items():
        # A TorchScript file and a checkpoint of a run differ from the next only in a number of their archive.
        assert content == old or content == whole[file] or (len(content) == len(whole[file]) > 0), file


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_whose_calls_fail_in_turn(name, detector, tmp_path):
    """The first call, then the second, and so on until none fails."""
    write, good = WRITERS[name], made(tmp_path / "good")
    write(good, detector)
    whole = contents(good)
    for number in itertools.count(1):
        folder = made(tmp_path / str(number))
        if name != "data set":
            for file in whole:
                (folder / file).write_bytes(b"old")
        with Faults(folder, number).injected() as faults:
            error = error_of(write, folder, detector)
        if not error:
            break
        assert re.fullmatch(rf"{re.escape(str(folder))}/\S+: cannot be written: {FULL}: .*", error)
        check_nothing_is_half_done(folder, whole, b"old")
    assert faults.count == number - 1 > 3
    assert contents(folder).keys() == whole.keys()


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_on_a_full_disk(name, detector, tmp_path):
    """The system itself refuses to write beyond a size, wherever a library writes."""
    write, good = WRITERS[name], made(tmp_path / "good")
    write(good, detector)
    whole = contents(good)
    sizes = {len(content) for content in whole.values()}
    for limit in sorted({limit for size in sizes for limit in (0, 1, size // 3, size - 1) if limit < max(sizes)}):
        folder = made(tmp_path / f"limit {limit}")
        message = r"cannot be written: File too large: .*ulimit -f|TMPDIR"
        with largest_file(limit), pytest.raises(WriteError, match=message):
            write(folder, detector)
        check_nothing_is_half_done(folder, whole, None)
        assert len(contents(folder)) < len(whole)


# One place and its neighbours


def test_a_file_appears_whole_with_the_mode_that_umask_asks_for(tmp_path):
    before = os.umask(0o027)
    try:
        with written_whole(tmp_path / "a") as file:
            file.write(b"1")
            assert not (tmp_path / "a").exists()
        with files.folder_written_whole(tmp_path / "b") as folder:
            (folder / "inside").write_bytes(b"2")
            assert not (tmp_path / "b").exists()
    finally:
        os.umask(before)
    assert contents(tmp_path) == {"a": b"1", "b/inside": b"2"}
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o750


@pytest.mark.parametrize("mode", [0o600, 0o777, 0o444])
def test_a_file_keeps_its_permissions(mode, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(mode)
    with written_whole(path) as file:
        (temporary,) = set(tmp_path.iterdir()) - {path}
        assert stat.S_IMODE(temporary.stat().st_mode) == mode  # what is secret is never readable
        file.write(b"new")
    assert contents(tmp_path) == {"a": b"new"}
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_an_error_of_the_block_leaves_the_old_file(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), written_whole(tmp_path / "a") as file:
        file.write(b"%d" % (1 // 0))
    assert contents(tmp_path) == {"a": b"old"}
    files.check_writable(tmp_path / "a")
    assert contents(tmp_path) == {"a": b"old"}


def test_links_are_followed_and_devices_and_pipes_written_directly(tmp_path):
    target = made(tmp_path / "else") / "target"
    (tmp_path / "link").symlink_to(target)
    files.write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "else") == {"target": b"text"}
    with pytest.raises(WriteError, match=f"^/dev/full: cannot be written: {FULL}"):
        files.write_text("/dev/full", "text")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    reader, writer = os.pipe()
    files.check_writable(f"/dev/fd/{writer}")
    files.write_text(f"/dev/fd/{writer}", "text")
    assert os.read(reader, 10) == b"text"
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("none/a", "the folder {}/none does not exist: create it first"),
        ("file/a", "Not a directory: a part of the path is a file"),
        ("", "this is a folder: give the name of a file in it"),
        ("n" * 256, "File name too long: choose a shorter name"),
    ],
)
def test_places_where_no_file_can_be(tmp_path, path, reason):
    (tmp_path / "file").write_bytes(b"")
    for write in (lambda path: files.write_text(path, "text"), files.check_writable):
        with pytest.raises(WriteError) as caught:
            write(tmp_path / path)
        assert str(caught.value) == f"{tmp_path / path}: cannot be written: {reason.format(tmp_path)}"
    assert contents(tmp_path) == {"file": b""}
    with pytest.raises(WriteError, match="file: cannot be made: File exists: this is a file"):
        files.make_folder(tmp_path / "file")


@pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS])
def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch, error):
    def refuse(path, flags, *arguments, **options):
        if flags & os.O_CREAT:
            raise OSError(error, os.strerror(error), path)
        return opened(path, flags, *arguments, **options)

    opened = os.open
    monkeypatch.setattr(os, "open", refuse)
    message = f"{tmp_path}/a: cannot be written: {os.strerror(error)}: .*choose another folder"
    with pytest.raises(WriteError, match=f"^{message}$"):
        files.write_text(tmp_path / "a", "text")


def test_the_longest_names_have_room_for_a_temporary_one(tmp_path):
    name = "é" * 127
    files.write_text(tmp_path / name, "text")
    assert contents(tmp_path) == {name: b"text"}


def test_what_dead_processes_left_is_removed(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    made(tmp_path / f".data.{ended.pid}.part")
    stays = [f".living.{os.getppid()}.part", f".locked.{ended.pid}.part", f"visible.{ended.pid}.part", ".a.part"]
    for name in (f".a.png.{ended.pid}.part", f".b.png.{os.getpid()}.part", f".data.{ended.pid}.part/inside", *stays):
        (tmp_path / name).write_bytes(b"half")
    with (tmp_path / stays[1]).open() as other_machine:
        fcntl.flock(other_machine, fcntl.LOCK_EX)
        files.write_text(tmp_path / "new", "text")
    assert contents(tmp_path).keys() == {"new", *stays}


def test_two_threads_and_processes_write_side_by_side(tmp_path):
    with written_whole(tmp_path / "a") as first, written_whole(tmp_path / "b") as second:
        files.write_text(tmp_path / "c", "3")
        first.write(b"1")
        second.write(b"2")
    assert contents(tmp_path) == {"a": b"1", "b": b"2", "c": b"3"}


def test_threads_that_write_one_file_take_turns(tmp_path):
    path = tmp_path / "a"

    def write(number: int) -> None:
        for _ in range(20):
            files.write_text(path, str(number) * 5000)
            files.check_writable(path)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert contents(tmp_path).keys() == {"a"}
    assert path.read_text() in {str(number) * 5000 for number in range(4)}


def test_appended_pieces_are_whole_or_not_there(tmp_path):
    file = files.AppendedFile(tmp_path / "lines")
    file.write(b"first\n")
    with largest_file(10), pytest.raises(WriteError, match="lines: cannot be written: File too large"):
        file.write(b"second\n")
    file.write(b"third\n")
    file.close()
    assert contents(tmp_path) == {"lines": b"first\nthird\n"}


def test_temporary_files_that_cannot_be_written_name_tmpdir(tmp_path, monkeypatch):
    results = Results()
    with largest_file(100), pytest.raises(WriteError, match="temporary files cannot be written: File too.* set TMPDIR"):
        results.add([{"image_id": 1, "text": "x" * 200}])
    results.add([{"image_id": 1}])
    assert list(results) == [{"image_id": 1}]
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(WriteError, match=f"^{tmp_path}/none: temporary files cannot be written"):
        Results()


# Commands


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_dataset(folder, train=4, val=1, size=96)
    return folder


@pytest.fixture(scope="module")
def weights(detector, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(detector.model, path, detector.class_names)
    return path


def run(*arguments) -> int:
    """The exit code of `yolact`, run in this process, which knows the preset `PRESET`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, PRESET.name, PRESET)
        patch.setattr(sys, "argv", ["yolact", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
    return caught.value.code or 0


def data_of(shapes: Path, split: str) -> tuple[Path, Path]:
    return shapes / "annotations" / f"{split}.json", shapes / split


def training(shapes: Path, output: Path, *more) -> tuple:
    options = []
    for split in ("train", "val"):
        annotations, images = data_of(shapes, split)
        options += [f"--{split}-annotations", annotations, f"--{split}-images", images]
    options += ["--model", PRESET.name, "--weights", "scratch", "--batch-size", 2, "--iterations", 2, "--workers", 0]
    return "train", *options, "--checkpoint-every", 1, "--log-every", 1, "-o", output, "--cpu", *more


# Of each command that writes, parts of the names of all that it writes.
WRITTEN = {
    "predict": (".png", "out.json"),
    "check": ("sheet",),
    "convert": ("safetensors",),
    "export": ("model.pt",),
    "evaluate": ("out.json", "report.md", ".png"),
    "benchmark": ("out.json",),
    "demo": ("scene.png", "scene-python.png"),
}


def arguments_of(name: str, shapes: Path, weights: Path, output: Path) -> list:
    """The arguments of a command that writes into the folder `output`."""
    annotations, images = data_of(shapes, "val")
    picture, file = next(images.iterdir()), output / "out.json"
    data, worst = ["--annotations", annotations, "--images", images], ["--save-worst", 1, "-o", output]
    return {
        "predict": ["predict", picture, "--model", weights, "-o", output, "--json", file],
        "check": ["data", "check", annotations, images, "--sheet", output / "sheet.png"],
        "convert": ["convert", weights, output / "a.safetensors", "--to", "yolact"],
        "export": ["export", weights, "-o", output / "model.pt"],
        "evaluate": [
            "evaluate",
            "--model",
            weights,
            *data,
            "--results",
            file,
            *worst,
            "--report",
            output / "report.md",
        ],
        "benchmark": ["benchmark", weights, "--image", picture, "--rounds", 1, "--no-memory", "--json", file],
        "demo": ["demo", "-o", output],
    }[name]


@pytest.mark.parametrize("name", WRITTEN)
def test_a_command_on_a_full_disk(name, shapes, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")  # the demonstration runs without the C++ program
    for number, written in enumerate(WRITTEN[name]):
        folder = made(tmp_path / str(number))
        arguments = arguments_of(name, shapes, weights, folder)
        old = [path for path in arguments if str(path).startswith(f"{folder}/")]
        for path in old:
            path.write_bytes(b"old")
        with Faults(folder, 1, written, ("write",)).injected():
            assert run(*arguments) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert re.fullmatch(rf"yolact: {folder}/\S*{written}\S*: cannot be written: {FULL}: .*", error), error
        assert not [path for path in folder.rglob("*") if ".part" in path.name]
        assert all(path.read_bytes() == b"old" for path in old if written in path.name)
        assert all(path.stat().st_size > 3 for path in folder.rglob("*") if path not in old)


def test_a_data_set_on_a_full_disk_is_not_there(tmp_path, capsys):
    options = "--train", 3, "--val", 1, "--size", 64
    with largest_file(1000):
        assert run("data", "shapes", tmp_path / "new", *options, "--workers", 2) == 1
    assert capsys.readouterr().err.startswith(f"yolact: {tmp_path / 'new'}: cannot be written: File too large")
    assert list(tmp_path.iterdir()) == []


def test_results_that_cannot_be_written_are_refused_before_the_evaluation(shapes, tmp_path, capsys):
    annotations, images = data_of(shapes, "val")
    for option in ("--results", "--report"):
        # The model is looked for later.
        data = "--annotations", annotations, "--images", images
        assert run("evaluate", "--model", "missing.pt", *data, option, tmp_path / "none" / "x") == 1
        assert "the folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "written",
    ["metrics.jsonl", "tfevents", "checkpoint-0000002", "best.safetensors", "curves.png", "weights"],
)
def test_a_run_on_a_full_disk_is_resumed(written, shapes, tmp_path, capsys):
    output = tmp_path / "run"
    with Faults(tmp_path, 3 if written == "tfevents" else 1, written, ("write",)).injected():
        assert run(*training(shapes, output)) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(rf"yolact: {output}/\S*{written}\S*: cannot be written: {FULL}: .*", error), error
    assert not [path for path in output.rglob("*") if path.name.endswith(".part")]
    for line in (output / "metrics.jsonl").read_text().splitlines():
        json.loads(line)
    assert run(*training(shapes, output, "--resume")) == 0
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [record["iteration"] for record in records if "loss" in record] == [1, 2]
    assert [record["iteration"] for record in records if "evaluation" in record] == [2]
    assert {path.name for path in output.iterdir()} > {"best.safetensors", "weights.safetensors", "report.json"}


@pytest.mark.parametrize("write_through", [False, True])
def test_standard_output_that_is_full_is_an_error(write_through, capsys, monkeypatch):
    with open("/dev/full", "w") as full:
        full.reconfigure(write_through=write_through)
        monkeypatch.setattr(sys, "stdout", full)
        assert run("--help") == 1
    assert capsys.readouterr().err.startswith(f"yolact: standard output: cannot be written: {FULL}")


def test_a_program_with_a_full_standard_output_ends_in_one_line():
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "yolact", "--help"]
        environment["PYTHONPATH"] = str(ROOT)
        finished = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, timeout=120)
    assert finished.returncode == 1
    assert re.fullmatch(f"yolact: standard output: cannot be written: {FULL}.*\n", finished.stderr)
