"""setup(), the doctor, and what an import costs."""

import ast
import os
import platform
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

import nam_edu
from nam_edu import backend
from nam_edu.machinery import doctor

REPOSITORY = Path(__file__).resolve().parent.parent


def in_a_new_process(code, **environment):
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_is_light():
    assert (
        in_a_new_process(
            "import sys, nam_edu; print('paddle' in sys.modules, 'matplotlib' in sys.modules)"
        )
        == "False False\n"
    )


def test_only_plots_imports_matplotlib():
    code = (
        "import sys, nam_edu.training, nam_edu.evaluation, nam_edu.__main__; "
        "print('matplotlib' in sys.modules)"
    )
    assert in_a_new_process(code) == "False\n"


def test_setup_prints_one_line_and_seeds_everything(capsys):
    nam_edu.setup(seed=4)
    first = random.random(), np.random.rand(), paddle.rand([1]).item()
    nam_edu.setup(seed=4)
    assert first == (random.random(), np.random.rand(), paddle.rand([1]).item())
    line = capsys.readouterr().out.splitlines()[0]
    for part in (
        nam_edu.__version__,
        paddle.__version__,
        paddle.device.get_device(),
        "thread",
        "data: ",
        "profile: ci",
        "seed 4",
    ):
        assert part in line
    assert str(Path.home()) not in line  # committed outputs carry no paths


def line_of_setup(capsys, **arguments):
    nam_edu.setup(**arguments)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "data, words",
    [
        ("shapes100", "data: Shapes-100 (generated)"),
        ("cifar100", "data: CIFAR-100 (NAM_EDU_CIFAR100)"),
        ("mine.tar.gz", "data: mine.tar.gz"),
        ("given", "data: images given in Python"),
    ],
)
def test_setup_names_the_data_of_a_command(data, words, tmp_path, monkeypatch, capsys):
    """Also where CIFAR-100 is found, which the lessons would use."""
    (tmp_path / "cifar.tar.gz").touch()
    monkeypatch.setenv("NAM_EDU_CIFAR100", str(tmp_path / "cifar.tar.gz"))
    line = line_of_setup(capsys, seed=2, data=data)
    assert f"| {words} | seed 2" in line and "profile" not in line
    assert "data: CIFAR-100 (NAM_EDU_CIFAR100) | profile: ci" in line_of_setup(capsys)


def test_setup_says_where_runs_go_when_not_beside_the_notebooks(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("NAM_EDU_RUNS", raising=False)
    monkeypatch.setattr(backend, "AISTUDIO_WORK", tmp_path / "work")
    assert "runs:" not in line_of_setup(capsys)
    (tmp_path / "work").mkdir()
    assert f"| runs: {tmp_path / 'work'} |" in line_of_setup(capsys)
    assert "runs:" not in line_of_setup(capsys, data="shapes100")  # a command has --out
    monkeypatch.setenv("NAM_EDU_RUNS", str(tmp_path / "mine"))
    assert f"| runs: {tmp_path / 'mine'} |" in line_of_setup(capsys)


def test_profile(monkeypatch):
    monkeypatch.setenv("NAM_EDU_PROFILE", "quick")
    assert backend.profile() == "quick"
    monkeypatch.setenv("NAM_EDU_PROFILE", "huge")
    with pytest.raises(ValueError, match="choose one of ci, quick, full"):
        backend.profile()
    monkeypatch.delenv("NAM_EDU_PROFILE")
    has_gpu = paddle.device.get_device().startswith("gpu")
    assert backend.profile() == ("full" if has_gpu else "quick")


LINUX = {"avx2", "avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}


@pytest.mark.parametrize(
    "vendor, instructions, expected",
    [
        ("authenticamd", {"sse2"}, None),
        ("authenticamd", {"avx2", "fma"}, "5"),
        ("authenticamd", LINUX | {"sse2"}, "7"),
        ("authenticamd", LINUX - {"avx512vl"}, "5"),
        ("amd64 family 25 model 33 stepping 0, authenticamd", {"avx2"}, "5"),  # Windows
        ("genuineintel", LINUX, None),
        ("", set(), None),
    ],
)
def test_the_blas_dispatch(vendor, instructions, expected):
    assert backend.blas_dispatch(vendor, instructions) == expected


SETUP = "import nam_edu; nam_edu.setup(); import os; print(os.environ.get('OMP_NUM_THREADS'))"


def setup_in_a_new_process(code=SETUP, **environment):
    """Standard output and error of a process without the variables that setup() may set."""
    base = {
        k: v
        for k, v in os.environ.items()
        if k
        not in (
            "OMP_NUM_THREADS",
            "MKL_DEBUG_CPU_TYPE",
            "NAM_EDU_CPU_TUNING",
            *backend.MALLOC_VARIABLES,
        )
    }
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**base, **environment},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout, result.stderr


def test_setup_tunes_the_cpu_and_says_so():
    cores = str(backend.usable_cores())
    out, err = setup_in_a_new_process()
    assert f"set: OMP_NUM_THREADS={cores}" in out and out.splitlines()[-1] == cores
    assert err == ""  # neither Paddle's noise nor ours


def test_setup_overrides_nothing_that_the_user_set():
    out, _ = setup_in_a_new_process(
        OMP_NUM_THREADS="3", MKL_DEBUG_CPU_TYPE="5", MALLOC_TRIM_THRESHOLD_="131072"
    )
    assert "3 threads | set: nothing" in out and out.splitlines()[-1] == "3"


def test_of_a_list_of_threads_the_first_counts():
    """Paddle makes 1 of a list, which is legal: a number for each level of nesting."""
    out, err = setup_in_a_new_process(OMP_NUM_THREADS="2,1", MALLOC_TRIM_THRESHOLD_="131072")
    line, inside = out.splitlines()
    assert "2 threads | set: " in line and "OMP_NUM_THREADS=2" in line and inside == "2"
    assert err == ""
    out, _ = setup_in_a_new_process(OMP_NUM_THREADS="2,1", NAM_EDU_CPU_TUNING="0")
    assert "1 thread | set: nothing" in out


@pytest.mark.parametrize(
    "value, threads",
    [
        ("3", 3),
        ("2,1", 2),
        (" 4 , 2,1", 4),
        ("", 1),
        ("x", 1),
        ("0", 1),
        ("-2", 1),
        (",2", 1),
        ("\u00b2", 1),
    ],
)
def test_thread_count(value, threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert backend.thread_count() == threads
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert backend.thread_count() == 1


def test_setup_names_packages_that_a_lesson_will_miss(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(backend, "LESSON_PACKAGES", ("tqdm", "nam_no_such", "nam_nor_this"))
    nam_edu.setup()
    err = capsys.readouterr().err
    assert "the lessons need nam_no_such, nam_nor_this, which Python does not find" in err
    assert err.count("\n") == 1 and "pip install nam_no_such nam_nor_this;" in err
    monkeypatch.setattr(backend, "EXTERNAL_LIBRARIES", tmp_path / "external-libraries")
    nam_edu.setup()
    assert "run the first cell of main.ipynb, then this cell again" in capsys.readouterr().err
    (tmp_path / "external-libraries").mkdir()  # as that cell does
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("nam_no_such", "nam_nor_this"):
        (tmp_path / "external-libraries" / f"{name}.py").touch()
    nam_edu.setup()
    nam_edu.setup(data="shapes100")
    assert capsys.readouterr().err == ""


def test_tuning_can_be_switched_off():
    out, err = setup_in_a_new_process(NAM_EDU_CPU_TUNING="0")
    assert "1 thread | set: nothing" in out and err == ""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a switch of the GNU C library")
def test_freed_memory_is_kept():
    """A block that was freed and is asked for again costs no new page."""
    code = """
import nam_edu; nam_edu.setup()
import resource, threading
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        maps = [b"x" * (2**23 + i) for i in range(4)]
        del maps
    print("faults", resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=faults); thread.start(); thread.join()
"""

    def faults(**environment):
        out, _ = setup_in_a_new_process(code, **environment)
        return "malloc=keep" in out, int(out.split("faults")[1])

    kept, few = faults()
    assert kept and few < 20_000  # 8,192 pages, and what else the thread asks for
    kept, many = faults(NAM_EDU_CPU_TUNING="0")
    assert not kept and many > 60_000


@pytest.mark.skipif(
    backend.usable_cores() == 1 and not backend.blas_dispatch(*backend.processor()),
    reason="nothing to tune on one core of this processor",
)
def test_paddle_loaded_first_is_said_once():
    _, err = setup_in_a_new_process(
        "import nam_edu.attention, nam_edu; nam_edu.setup(); nam_edu.setup()"
    )
    lines = [line for line in err.splitlines() if "too late" in line]
    assert len(lines) == 1 and "restart Python" in lines[0]


def test_results_with_and_without_tuning_agree():
    """Losses of ten training steps, to 1e-5 relative."""
    code = """
import nam_edu; nam_edu.setup()
import numpy as np, paddle
from nam_edu.resnet import resnet18
network = resnet18(width=16)
optimizer = paddle.optimizer.Momentum(0.0005, 0.9, parameters=network.parameters())
rng = np.random.default_rng(0)
x = paddle.to_tensor(rng.normal(size=(64, 3, 32, 32)).astype("float32"))
y = paddle.to_tensor(rng.integers(0, 100, 64))
for _ in range(10):
    loss = paddle.nn.functional.cross_entropy(network(x), y)
    loss.backward(); optimizer.step(); optimizer.clear_grad()
    print("loss", float(loss))
"""

    def losses(**environment):
        out, _ = setup_in_a_new_process(code, **environment)
        return [float(line.split()[1]) for line in out.splitlines() if line.startswith("loss")]

    tuned, plain = losses(), losses(NAM_EDU_CPU_TUNING="0")
    assert len(tuned) == 10 and tuned[-1] < tuned[0]
    np.testing.assert_allclose(tuned, plain, rtol=1e-5)


def test_usable_cores():
    assert 1 <= backend.usable_cores() <= os.cpu_count()


@pytest.mark.parametrize(
    "state, message",
    [
        (("3.3.1", "2.6.2", "2.6.2", False, True), "overwrite each other's files"),
        ((None, None, None, False, False), "is not installed"),
        (("2.4.0", None, "2.4.0", False, False), "too old"),
        (("3.3.1", None, "3.3.1", True, False), "this Paddle is the CPU build"),
    ],
)
def test_the_doctor_names_what_is_wrong_and_how_to_mend_it(state, message):
    (sentence,) = doctor.problems(*state)
    assert message in sentence and "pip " in sentence


def test_the_doctor_on_a_sound_machine():
    assert not list(doctor.problems("3.3.1", None, "3.3.1", False, False))
    assert not list(doctor.problems(None, "2.6.2", "2.6.2", True, True))


def test_the_doctor_measures_matrix_products(capsys):
    doctor.examine()
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("matrix products")]
    assert 1 < float(line.split()[2]) < 1e6 and "set for the CPU" in out


@pytest.mark.parametrize(
    "choice, words", [("paddle", "Paddle's kernels"), ("products", "products")]
)
def test_the_doctor_says_which_convolutions_are_used(choice, words, monkeypatch, capsys):
    monkeypatch.setenv("NAM_EDU_CONVOLUTION", choice)
    doctor.examine()
    lines = capsys.readouterr().out.splitlines()
    (first,) = [i for i, line in enumerate(lines) if line.startswith("convolutions")]
    assert words in lines[first] and " ms, Paddle alone " in lines[first + 1]


def test_the_doctor_says_where_it_cannot_write(monkeypatch, capsys):
    from nam_edu.machinery import shapes100

    monkeypatch.setattr(shapes100, "writable", lambda folder: False)
    assert doctor.examine() == 1
    here, cache = [
        line for line in capsys.readouterr().out.splitlines() if "cannot be written to" in line
    ]
    assert "this folder" in here and "NAM_EDU_CACHE" not in here and "change to a folder" in here
    assert "the cache" in cache and "NAM_EDU_CACHE" in cache


WITHOUT = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
{before}
from nam_edu.machinery import doctor
{after}
sys.exit(doctor.examine())
"""


def doctor_in_a_new_process(*blocked, before="", after="", cwd=REPOSITORY, path=REPOSITORY):
    """(exit code, standard output) of the doctor where some modules cannot be imported."""
    code = WITHOUT.format(blocked=set(blocked) or "()", before=before, after=after)
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(path)},
    )
    assert "Traceback" not in result.stderr, result.stderr
    return result.returncode, result.stdout


def test_the_doctor_without_numpy():
    code, out = doctor_in_a_new_process("numpy")
    assert code == 1
    wrong = [line for line in out.splitlines() if line.startswith("WRONG")]
    assert wrong == [
        "WRONG: numpy is missing, which the package needs: pip install -r requirements-base.txt"
    ]
    assert "1 problem found." in out


def test_the_doctor_without_paddle():
    code, out = doctor_in_a_new_process("paddle")
    assert code == 1 and "is installed but does not work (No module named 'paddle')" in out
    code, out = doctor_in_a_new_process(
        "paddle", after="doctor.installed = lambda name: None if 'paddle' in name else '1.0'"
    )
    assert code == 1 and "WRONG: PaddlePaddle is not installed: pip install -r req" in out


def test_the_doctor_on_python_38():
    """It says so before anything that needs a newer one, and all on the way to it parses there."""
    code, out = doctor_in_a_new_process("numpy", before="sys.version_info = (3, 8, 18, 'final', 0)")
    assert code == 1 and "is outside 3.9 to 3.13" in out and "1 problem found." in out
    own = {
        "from . import __version__",
        "from .errors import ArgumentError",
        "from .machinery.language import choose_language, words",
    }
    language = ("machinery/errors", "machinery/language")
    for name in ("__init__", "machinery/__init__", *language, "machinery/doctor", "backend"):
        tree = ast.parse(
            (REPOSITORY / "nam_edu" / f"{name}.py").read_text(encoding="utf-8"),
            feature_version=(3, 8),
        )
        for node in tree.body:  # at the top: the standard library, and what is in this package
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= STANDARD
            elif isinstance(node, ast.ImportFrom):
                assert ast.unparse(node) in own or (
                    not node.level and node.module.split(".")[0] in STANDARD
                )


STANDARD = {
    "__future__",
    "contextlib",
    "ctypes",
    "functools",
    "gettext",
    "importlib",
    "io",
    "os",
    "pathlib",
    "platform",
    "random",
    "re",
    "shlex",
    "shutil",
    "subprocess",
    "sys",
    "time",
    "warnings",
    "zlib",
}


@pytest.fixture
def bare(tmp_path):
    """A folder with the package alone in it, as a wheel installs it."""
    shutil.copytree(
        REPOSITORY / "nam_edu",
        tmp_path / "bare" / "nam_edu",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    return tmp_path / "bare"


def test_the_doctor_on_an_installed_package(bare):
    """What only lessons and tests need is reported there, and is not wrong."""
    others = ("jupyterlab", "notebook", "ipywidgets", "pytest", "nbval", "hypothesis")
    others += ("babel", "autocorrect_py", "markdown_it", "scipy")
    code, out = doctor_in_a_new_process(*others, cwd=bare, path=bare)
    assert code == 0 and "Nothing is wrong." in out
    assert out.count("missing (needed by the lessons)") == 2
    assert out.count("missing (needed by the tests)") == 7
    code, out = doctor_in_a_new_process("tqdm", cwd=bare, path=bare)
    assert code == 1 and "which the package needs: pip install tqdm\n" in out


def test_the_doctor_beside_the_lessons_of_the_zip(bare):
    """On AI Studio: notebooks/ and tests/golden lie beside the package, tests do not."""
    (bare / "notebooks").mkdir()
    (bare / "tests" / "golden").mkdir(parents=True)
    code, out = doctor_in_a_new_process(
        "notebook", "jupyterlab", "ipywidgets", "pytest", cwd=bare, path=bare
    )
    assert code == 1 and "2 problems found." in out
    assert "jupyterlab or notebook is missing, which the lessons need: pip install jupy" in out
    assert "ipywidgets is missing, which the lessons need: pip install ipywidgets\n" in out
    # In a cell, Jupyter is there, wherever its packages are; and main.ipynb installs the others.
    (bare / "main.ipynb").touch()
    code, out = doctor_in_a_new_process(
        "notebook",
        "jupyterlab",
        "ipywidgets",
        cwd=bare,
        path=bare,
        before="import os; os.environ['JPY_PARENT_PID'] = '1'",
    )
    assert code == 1 and "1 problem found." in out
    assert "ipywidgets is missing, which the lessons need: run the first cell of main.ipy" in out


def test_the_doctor_looks_into_the_external_libraries(tmp_path):
    (tmp_path / "tqdm_of_aistudio.py").touch()
    info = tmp_path / "tqdm_of_aistudio-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tqdm_of_aistudio\nVersion: 9.9\n")
    code, out = doctor_in_a_new_process(
        after="from nam_edu import backend\nfrom pathlib import Path\n"
        f"backend.EXTERNAL_LIBRARIES = Path({str(tmp_path)!r})\n"
        "doctor.NEEDED = (('the package', 'nam_edu', ('tqdm_of_aistudio',)),)"
    )
    assert code == 0 and "tqdm_of_aistudio       9.9" in out
