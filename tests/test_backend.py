"""setup(), the doctor, and what an import costs."""
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

import nam_edu
from nam_edu import backend, doctor

REPOSITORY = Path(__file__).resolve().parent.parent


def in_a_new_process(code, **environment):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                            cwd=REPOSITORY, env={**os.environ, **environment})
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_is_light():
    assert in_a_new_process("import sys, nam_edu; print('paddle' in sys.modules, "
                            "'matplotlib' in sys.modules)") == "False False\n"


def test_only_plots_imports_matplotlib():
    code = ("import sys, nam_edu.training, nam_edu.evaluation, nam_edu.__main__; "
            "print('matplotlib' in sys.modules)")
    assert in_a_new_process(code) == "False\n"


def test_setup_prints_one_line_and_seeds_everything(capsys):
    nam_edu.setup(seed=4)
    first = random.random(), np.random.rand(), paddle.rand([1]).item()
    nam_edu.setup(seed=4)
    assert first == (random.random(), np.random.rand(), paddle.rand([1]).item())
    line = capsys.readouterr().out.splitlines()[0]
    for part in (nam_edu.__version__, paddle.__version__, paddle.device.get_device(), "threads",
                 "data: ", "profile: ci", "seed 4"):
        assert part in line
    assert str(Path.home()) not in line  # committed outputs carry no paths


def test_profile(monkeypatch):
    monkeypatch.setenv("NAM_EDU_PROFILE", "quick")
    assert backend.profile() == "quick"
    monkeypatch.setenv("NAM_EDU_PROFILE", "huge")
    with pytest.raises(ValueError, match="choose one of ci, quick, full"):
        backend.profile()
    monkeypatch.delenv("NAM_EDU_PROFILE")
    has_gpu = paddle.device.get_device().startswith("gpu")
    assert backend.profile() == ("full" if has_gpu else "quick")


def test_usable_cores():
    assert 1 <= backend.usable_cores() <= os.cpu_count()


@pytest.mark.parametrize("state, message", [
    (("3.3.1", "2.6.2", "2.6.2", False, True), "overwrite each other's files"),
    ((None, None, None, False, False), "is not installed"),
    (("2.4.0", None, "2.4.0", False, False), "too old"),
    (("3.3.1", None, "3.3.1", True, False), "this Paddle is the CPU build"),
])
def test_the_doctor_names_what_is_wrong_and_how_to_mend_it(state, message):
    (sentence,) = doctor.problems(*state)
    assert message in sentence and "pip " in sentence


def test_the_doctor_on_a_sound_machine():
    assert not list(doctor.problems("3.3.1", None, "3.3.1", False, False))
    assert not list(doctor.problems(None, "2.6.2", "2.6.2", True, True))


def test_the_doctor_says_where_it_cannot_write(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "writable", lambda folder: False)
    assert doctor.examine() == 1
    assert "cannot be written to" in capsys.readouterr().out
