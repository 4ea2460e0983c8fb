"""More of what a learner or a teacher does beside the path: nothing is lost, nothing is silently
wrong, and an error says in one sentence what to do."""

import dataclasses
import gzip
import http.server
import os
import subprocess
import sys
import threading

import numpy as np
import paddle
import pytest
from helpers import random_split

from nam_edu import lessons, plots
from nam_edu.__main__ import main
from nam_edu.backend import setup
from nam_edu.data import download_cifar100, load_data, locate_cifar100, read_archive, write_archive
from nam_edu.evaluation import evaluate, gate_maps, predict, weight_shares
from nam_edu.judge import judge
from nam_edu.machinery import files, grading, shapes100, submissions
from nam_edu.machinery.cifar_archive import ArchiveError
from nam_edu.machinery.doctor import examine
from nam_edu.machinery.errors import ArgumentError, TrainingError
from nam_edu.resnet import resnet18
from nam_edu.training import fit, open_run, recipe

TINY = recipe("ci", width=2, epochs=2, train_images=64, validation=32, batch_size=32)
OPTIONS = "--recipe ci --width 2 --epochs 1 --train-images 64 --validation 32 --batch-size 32"
STATES = ("last.npz", "previous.npz")


# ------------------------------------------------------------------------------ what is kept


@pytest.mark.parametrize("how", ["damaged", "gone"])
def test_a_run_that_lost_its_states_is_not_trained_anew_unasked(how, archive, tmp_path):
    fit(TINY, archive, tmp_path / "run", progress=False)
    for name in STATES:
        path = tmp_path / "run" / name
        path.write_bytes(path.read_bytes()[:-100]) if how == "damaged" else path.unlink()
    kept = {p.name: p.read_bytes() for p in (tmp_path / "run").glob("*.*")}
    with pytest.raises(TrainingError, match="damaged or gone"):
        open_run(tmp_path / "run")
    with pytest.raises(TrainingError, match="damaged or gone"):
        fit(TINY, archive, tmp_path / "run", resume=True, progress=False)
    with pytest.raises(TrainingError, match="holds a run already"):
        fit(TINY, archive, tmp_path / "run", progress=False)
    assert kept == {p.name: p.read_bytes() for p in (tmp_path / "run").glob("*.*")}
    assert len(fit(TINY, archive, tmp_path / "run", overwrite=True, progress=False).log) == 2


def test_a_lesson_replaces_a_run_that_lost_its_states(archive, tmp_path, monkeypatch):
    monkeypatch.setenv("NAM_EDU_RUNS", str(tmp_path))
    monkeypatch.setenv("NAM_EDU_CIFAR100", str(write_archive(tmp_path / "c.tar.gz", archive)))
    settings = dict(width=2, train_images=64, validation=32, batch_size=32)
    folder = lessons.small_run("x", **settings).folder
    for name in STATES:
        (folder / name).write_bytes(b"")
    assert len(lessons.small_run("x", **settings).log) == 1


def test_a_device_is_not_replaced_by_a_file(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no special files here")
    os.mkfifo(tmp_path / "null")
    with pytest.raises(OSError, match="no ordinary file"):
        files.write_text(tmp_path / "null", "text")
    with pytest.raises(submissions.GradingError, match="no ordinary file"):
        grading.grade(tmp_path, tmp_path / "null")  # before it grades
    assert [p.name for p in tmp_path.iterdir()] == ["null"] and not (tmp_path / "null").is_file()


def test_a_folder_among_the_curves_does_not_block_overwriting(archive, tmp_path):
    fit(TINY, archive, tmp_path / "run", progress=False)
    (tmp_path / "run" / "visualdl" / ".ipynb_checkpoints").mkdir()
    fit(TINY, archive, tmp_path / "run", overwrite=True, progress=False)


def test_a_network_that_cannot_be_built_costs_no_run(archive, tmp_path):
    def broken(channels, size):
        raise NameError("a typo")

    before = fit(TINY, archive, tmp_path / "run", progress=False)
    with pytest.raises(NameError):
        fit(TINY, archive, tmp_path / "run", overwrite=True, progress=False, attention=broken)
    assert open_run(tmp_path / "run").log == before.log


def test_a_run_is_found_from_another_folder(archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = fit(TINY, archive, "run", progress=False), open_run("run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for run in runs:
        assert run.network is not None and run.best is not None and str(run.folder) == "run"


# --------------------------------------------------------------------- silently wrong before


def test_the_data_of_the_lessons_are_those_that_are_there_now(archive, tmp_path, monkeypatch):
    """CIFAR-100 is downloaded while a notebook is open."""
    drawn = dataclasses.replace(archive)
    monkeypatch.setattr(lessons, "load_data", {"cifar100": archive, "shapes100": drawn}.get)
    read = getattr(lessons, "_data_at", lessons.lesson_data)
    read.cache_clear()
    try:
        for path, found in ((None, drawn), (tmp_path, archive), (None, drawn)):
            monkeypatch.setattr(lessons, "locate_cifar100", lambda path=path: path)
            assert lessons.lesson_data() is found
    finally:
        read.cache_clear()


def test_the_table_of_a_class_lacks_nobody(tmp_path, monkeypatch):
    (tmp_path / "a.ipynb").write_text("{}")
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "b.ipynb").write_text("{}")
    walk = os.walk

    def locked(top, onerror=None, **more):  # permissions do not stop root
        onerror(PermissionError(13, "Permission denied", str(tmp_path / "ann")))
        return walk(top, onerror=onerror, **more)

    monkeypatch.setattr(os, "walk", locked)
    with pytest.raises(submissions.GradingError, match="ann cannot be read"):
        submissions.submissions(tmp_path, ())


@pytest.mark.parametrize(
    "name, value, said",
    [
        ("NAM_EDU_LANG", "fr", "NAM_EDU_LANG is 'fr': choose one of en, zh"),
        ("NAM_EDU_PROFILE", "fast", "NAM_EDU_PROFILE is 'fast': choose one of ci"),
        ("NAM_EDU_CIFAR100", ".", "NAM_EDU_CIFAR100 says ., which is a folder"),
    ],
)
def test_the_doctor_reads_the_variables_of_the_course(name, value, said, monkeypatch, capsys):
    monkeypatch.setenv(name, value)
    assert examine() == 1
    assert f"WRONG: {said}" in capsys.readouterr().out


def test_a_folder_is_no_cifar100(monkeypatch, tmp_path):
    monkeypatch.setenv("NAM_EDU_CIFAR100", str(tmp_path))
    for look in (locate_cifar100, setup):
        with pytest.raises(ArchiveError, match="which is a folder: let it say where the file"):
            look()


def test_what_is_written_can_be_read(archive, tmp_path):
    def resized(split, size):
        return dataclasses.replace(split, images=split.images[:, :, :size, :size])

    small = dataclasses.replace(
        archive, train=resized(archive.train, 16), test=resized(archive.test, 16)
    )
    empty = dataclasses.replace(archive, test=archive.test.take([]))
    for other in (small, empty):
        with pytest.raises(ArchiveError, match="the format needs one image or more of"):
            write_archive(tmp_path / "x.tar.gz", other)
    assert not list(tmp_path.iterdir())


def test_nan_is_no_equal_share():
    assert np.isnan(weight_shares([np.nan, 1.0])).all()


# ------------------------------------------------------------------------------ plain errors


def test_a_damaged_archive_is_called_damaged(archive, tmp_path):
    whole = write_archive(tmp_path / "x.tar.gz", archive).read_bytes()
    for at in (-8, len(whole) // 2):  # its checksum, and what the checksum is of
        data = bytearray(whole)
        data[at] ^= 1
        (tmp_path / "x.tar.gz").write_bytes(data)
        with pytest.raises(ArchiveError, match="it is truncated or damaged"):
            read_archive(tmp_path / "x.tar.gz")
    (tmp_path / "x.tar.gz").write_bytes(gzip.decompress(whole))
    with pytest.raises(ArchiveError, match="it is not a gzip file"):
        read_archive(tmp_path / "x.tar.gz")


def test_the_home_folder_is_meant_on_the_command_line(archive, tmp_path, monkeypatch, capsys):
    """As in --out=~/run, which a shell hands over as it is."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_archive("~/data.tar.gz", archive)
    train = ["train", *OPTIONS.split(), "--data=~/data.tar.gz", "--out=~/run"]
    assert main(train) == main(["train", "--resume", "--out=~/run"]) == 0
    assert "is finished" in capsys.readouterr().out
    path = shapes100.make_shapes100("~/shapes.tar.gz", train=1, test=1)
    assert path == tmp_path / "shapes.tar.gz" and path.exists()
    assert main(["aistudio", "--out=~/course.zip"]) == 0 and (tmp_path / "course.zip").exists()
    (tmp_path / "class").mkdir()
    assert main(["grade", "~/class", "--csv=~/class.csv"]) == 1
    assert f"no notebook (*.ipynb) is in {tmp_path / 'class'}" in capsys.readouterr().err
    assert not (tmp_path / "~").exists()


def test_a_home_folder_that_there_is_not(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command in (["evaluate", "~nobody-here/run"], ["train", "--data", "~nobody-here/data"]):
        assert main(command) == 1
        assert "there is no" in capsys.readouterr().err

    monkeypatch.setattr(os.path, "expanduser", lambda path: os.fspath(path))
    for name in ("NAM_EDU_CIFAR100", "NAM_EDU_CACHE"):
        monkeypatch.delenv(name, raising=False)
    assert locate_cifar100() is None
    assert shapes100.cache_folder().parts[0] != "~" and not list(tmp_path.iterdir())


def test_a_home_folder_that_is_locked(monkeypatch):
    def locked(path, **more):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.delenv("NAM_EDU_CIFAR100", raising=False)
    monkeypatch.setattr("pathlib.Path.stat", locked)
    locate_cifar100()


def test_images_that_were_handed_over_are_asked_for_again(archive, tmp_path, capsys):
    run = fit(TINY, archive, tmp_path / "run", progress=False)
    with pytest.raises(ArchiveError, match="handed over in Python"):
        fit(run.recipe, out=run.folder, resume=True)
    assert main(["train", "--resume", "--out", str(run.folder)]) == 1
    assert "handed over in Python" in capsys.readouterr().err
    with pytest.raises(ArchiveError, match="data must be an Archive"):
        load_data(archive.train)


def test_a_judge_refuses_before_it_trains(archive, tmp_path):
    for wrong, said in (
        (dict(recipe="quick"), "recipe must be a Recipe"),
        (dict(constant_recipe="quick"), "recipe must be a Recipe"),
        (dict(split=archive.test.take([])), "there are no images"),
    ):
        arguments = {"recipe": TINY, "data": archive, "out": tmp_path / "judge", **wrong}
        with pytest.raises((ArgumentError, TrainingError), match=said):
            judge("se", seeds=(0, 1), **arguments)
    assert not (tmp_path / "judge").exists()


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint64"])
def test_labels_of_any_whole_numbers(kind, archive, tmp_path):
    split = archive.train
    split = dataclasses.replace(split, fine=split.fine.astype(kind), coarse=list(split.coarse))
    assert split.fine.dtype == split.coarse.dtype == np.int64
    for wrong in (split.fine / 1, split.fine > 3):
        with pytest.raises(ArchiveError, match="fine labels must be whole numbers, not"):
            dataclasses.replace(split, fine=wrong)


def test_a_network_of_somebody_else(archive):
    other = paddle.vision.models.resnet18(num_classes=100)
    with pytest.raises(ArgumentError, match="set network.normalization"):
        evaluate(other, archive.test)
    other.normalization = (0.5,) * 3, (0.25,) * 3
    assert evaluate(other, archive.test.take(range(4))).images == 4
    for size in (0, -1, 2.5):
        with pytest.raises(ArgumentError, match="batch_size must be a whole number"):
            predict(resnet18(width=2), archive.test.images[:4], size)
    with pytest.raises(TypeError, match="take split.images"):
        predict(resnet18(width=2), archive.test)
    with pytest.raises(ValueError, match="the network has no NAM layer"):
        gate_maps(resnet18(width=2, attention="none"), archive.test.images[:4], "layer1")


def test_a_guess_beyond_every_float(capsys):
    lessons.compare(10**400, 3)
    assert "not so" in capsys.readouterr().out


class Strange(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        head = b"HTTP/1.1 200 OK\r\n"
        self.wfile.write(
            {
                "/garbage": b"hello\r\n\r\n",
                "/chunk": head + b"Transfer-Encoding: chunked\r\n\r\n100\r\nabc",
                "/length": head + b"Content-Length: abc\r\n\r\nabc",
            }[self.path]
        )

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("path", ["garbage", "chunk", "length"])
def test_a_server_that_speaks_no_http(path, tmp_path):
    with http.server.HTTPServer(("127.0.0.1", 0), Strange) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        with pytest.raises(ArchiveError, match="could not download|is not CIFAR-100"):
            download_cifar100(tmp_path, url=f"http://127.0.0.1:{server.server_port}/{path}")
    assert not list(tmp_path.iterdir())


def test_pictures_of_nothing():
    for call in (
        lambda: plots.bars([], {}, "x", "y"),
        lambda: plots.histograms({}, "x"),
        lambda: plots.histograms({"a": {"b": []}}, "x"),
        lambda: plots.scatter([], [], "x", "y"),
        lambda: plots.points({"a": ([], [])}, "x", "y"),
        lambda: plots.heatmap([[np.nan]], ["a"], ["b"], "x", "y"),
        lambda: plots.seeds({}, "y"),
    ):
        with pytest.raises(ValueError, match="there is nothing to draw"):
            call()
    for call in (lambda: plots.image_gates([], []), lambda: plots.overlays([], [], [], [])):
        with pytest.raises(ValueError, match="there are no images"):
            call()


def test_titles_of_pictures():
    pictures = random_split(3, 0).images
    assert "a, b, c" in plots.images(pictures, np.array(["a", "b", "c"])).alt
    assert "0, 1, 2" in plots.images(pictures, (str(i) for i in range(3))).alt
    with pytest.raises(ValueError, match="there are 3 pictures, but only 1 titles"):
        plots.images(pictures, ["a"])


def test_the_gates_of_a_single_channel():
    figure = plots.gate_channels(np.full((2, 1, 3, 3), 0.25), [1.0])
    assert "its only channel: from 0.25 to 0.25" in figure.alt


def test_ctrl_c_ends_a_command_in_a_word(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("nam_edu.data.locate_cifar100", interrupted)
    try:
        assert main(["data"]) == 130
    except KeyboardInterrupt:  # it would end pytest
        pytest.fail("it reached Python")
    assert capsys.readouterr().err == "stopped\n"


def test_a_terminal_without_chinese(archive, tmp_path):
    """Its encoding lacks the letters of a path: they are written as codes."""
    data, out = write_archive(tmp_path / "c.tar.gz", archive), tmp_path / "实验"
    command = [sys.executable, "-m", "nam_edu", "train", *OPTIONS.split(), "--data", str(data)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "NAM_EDU_LANG": "zh"}
    done = subprocess.run([*command, "--out", str(out)], env=environment, capture_output=True)
    assert done.returncode == 0 and b"\\u5b9e" in done.stdout, done.stderr
    assert (out / "run.json").exists()
