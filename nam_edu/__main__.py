"""The command line: python -m nam_edu train | evaluate | gamma | data | grade | aistudio |
doctor."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path

if not __package__:  # run as a file, which is how paddle.distributed.launch runs a program
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __package__ = "nam_edu"

from . import __version__  # noqa: E402
from .machinery.errors import ArgumentError, NamEduError, shell_command  # noqa: E402
from .machinery.files import named  # noqa: E402


OF_JUPYTER = ("nbformat", "jupyter_client", "ipykernel", "IPython")  # come with jupyterlab


def recipe_options():
    """(name, keyword arguments of `add_argument`) for every field of a recipe that an option can
    change. Loads Paddle, which the other commands do without until they need it."""
    _quiet_setup()
    from .machinery.checks import option
    from .recipes import Recipe

    return [
        option(field) for field in dataclasses.fields(Recipe) if field.name not in ("name", "data")
    ]


def parser(options=()):
    """The parser of all commands; `options`: those of `recipe_options`, for train."""
    main = argparse.ArgumentParser(
        prog="python -m nam_edu",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Normalization-based attention (NAM) in PaddlePaddle: train, evaluate, look.",
        epilog="first steps:\n"
        "  python -m nam_edu doctor                      is everything in order?\n"
        "  python -m nam_edu train --recipe quick --out runs/first\n"
        "  python -m nam_edu evaluate runs/first",
    )
    main.add_argument("--version", action="version", version=f"nam_edu {__version__}")
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train a network",
        description="Train a network by a recipe. Every field of the recipe can be changed by an "
        "option; what is not given stays as the recipe has it.",
    )
    train.add_argument(
        "--recipe",
        default=None,
        metavar="NAME",
        help="quick (half a minute on two server cores; the default), ci (seconds), "
        "shipped (of the weights that come with the package), tutorial (the "
        "original's settings) or official (the authors' script)",
    )
    train.add_argument(
        "--data",
        metavar="DATA",
        help="shapes100, cifar100 or the path of an archive; default: the recipe's",
    )
    train.add_argument(
        "--out",
        default="runs/first",
        metavar="FOLDER",
        help="where the run is kept (default: runs/first)",
    )
    train.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --out; start it where there is none",
    )
    train.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    group = train.add_argument_group("fields of the recipe")
    for name, keywords in options:
        group.add_argument(name, **keywords)

    evaluate = commands.add_parser(
        "evaluate",
        help="top-1 and top-5 of a run on the test images",
        description="Evaluate a run, or a weights file, on the test images of its data.",
    )
    evaluate.add_argument(
        "run", nargs="?", metavar="FOLDER", help="folder of a run, or 'shipped', 'shipped-none'"
    )
    evaluate.add_argument("--data", metavar="DATA", help="other data than the run was trained on")
    evaluate.add_argument(
        "--best",
        action="store_true",
        help="the epoch that was best on the validation split, not the last",
    )
    evaluate.add_argument(
        "--weights",
        metavar="FILE",
        help="in place of a run: 'shipped' (NAM) or 'shipped-none', trained on "
        "CIFAR-100 and part of the package; an .npz that carries its "
        "recipe; a weights file of the original tutorial's ResNet-50-NAM",
    )
    evaluate.add_argument("--json", action="store_true", help="print JSON and nothing else")

    gamma = commands.add_parser(
        "gamma",
        help="the gamma of every NAM layer of a run",
        description="Print how the gamma of every NAM layer moved in training.",
    )
    gamma.add_argument(
        "run",
        metavar="FOLDER",
        help="folder of a run, or 'shipped': the one that comes with the package",
    )

    data = commands.add_parser(
        "data",
        help="find, download or draw the images",
        description="Show which images are found, download CIFAR-100 (169 MB), or draw the "
        "generated stand-in Shapes-100.",
    )
    data.add_argument(
        "action", nargs="?", default="info", choices=("info", "download", "make-shapes100")
    )
    data.add_argument(
        "--out", metavar="PATH", help="folder for the download, or file for Shapes-100"
    )
    data.add_argument("--seed", type=int, default=0, help="of Shapes-100 (default: 0)")

    grade = commands.add_parser(
        "grade",
        help="check the exercises of a class",
        description="Check the exercises in every notebook below a folder with the course's own "
        "checkers, each in a new kernel, and write a table. What a notebook prints does not count. "
        "No sandbox: the code of the notebooks runs with your rights.",
    )
    grade.add_argument("folder", metavar="FOLDER", help="the notebooks that were handed in")
    grade.add_argument("--csv", required=True, metavar="FILE", help="the table to write")
    grade.add_argument(
        "--seconds", type=int, default=60, help="the limit of one exercise (default: 60)"
    )
    grade.add_argument(
        "--jobs", type=int, help="exercises at a time (default: one per core, at most 4)"
    )

    aistudio = commands.add_parser(
        "aistudio",
        help="write the zip that Baidu AI Studio imports",
        description="Write the course as one zip, laid out as AI Studio expects it.",
    )
    aistudio.add_argument(
        "--out",
        default="nam-edu-aistudio.zip",
        metavar="FILE",
        help="default: nam-edu-aistudio.zip",
    )

    commands.add_parser("doctor", help="say what is installed, what is wrong and how to fix it")
    return main


def command_train(args):
    from . import setup, training

    names = [field.name for field in dataclasses.fields(training.Recipe) if field.name != "data"]
    changes = {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}
    if args.resume and args.recipe is None and (named(args.out) / "run.json").exists():
        recipe = training.change(training.saved_recipe(args.out), **changes)
        data = args.data or recipe.data
    else:
        recipe = training.recipe(args.recipe or "quick", **changes)
        data = args.data
    setup(recipe.seed, data or recipe.data)
    run = training.fit(recipe, data, args.out, resume=args.resume, overwrite=args.overwrite)
    evaluate = shell_command("python", "-m", "nam_edu", "evaluate", run.folder)
    curves = shell_command("visualdl", "--host", "127.0.0.1", "--logdir", run.folder / "visualdl")
    print(f"evaluate it:    {evaluate}\nsee its curves: {curves}")


def command_evaluate(args):
    if (args.run is None) == (args.weights is None):
        raise ArgumentError("give the folder of a run, or --weights FILE")
    _quiet_setup()
    from .evaluation import evaluate
    from .runs import SHIPPED_NAMES
    from .training import load_data, load_network, open_run

    args.weights = args.weights or (args.run if args.run in SHIPPED_NAMES else None)
    if args.weights:
        network, recipe = load_network(args.weights)
    else:
        run = open_run(args.run)
        network, recipe = (run.best if args.best else run.network), run.recipe
    data = args.data or recipe.data
    if data == "given":
        raise ArgumentError(
            "this run was trained on images that were handed over in Python: say "
            "with --data what to evaluate on"
        )
    result = evaluate(network, load_data(data).test)
    if args.json:
        print(
            json.dumps(
                {
                    **result.as_dict(),
                    "data": data,
                    "weights": args.weights or args.run,
                    "recipe": dataclasses.asdict(recipe),
                }
            )
        )
    else:
        print(
            f"{args.weights or args.run}: ResNet-{recipe.depth}, attention {recipe.attention}, "
            f"on the test images of {data}"
        )
        print(result)


def command_gamma(args):
    _quiet_setup()
    from .evaluation import gamma_table
    from .runs import SHIPPED_NAMES
    from .training import open_run, shipped

    if args.run in SHIPPED_NAMES:
        run = shipped("none" if args.run == "shipped-none" else "nam")
    else:
        run = open_run(args.run)
    if not run.gamma_history:
        raise ArgumentError(
            f"the network of {args.run} has no NAM layer (attention {run.recipe.attention})"
        )
    print(
        f"{args.run}: ResNet-{run.recipe.depth}, attention {run.recipe.attention}, "
        f"{len(run.log)} epochs on {run.recipe.data}"
    )
    print(gamma_table(run.gamma_history))


def command_data(args):
    from .data import download_cifar100, how_to_get, known_places, locate_cifar100

    if args.action == "download":
        print(f"CIFAR-100 is in {download_cifar100(args.out)}")
    elif args.action == "make-shapes100":
        from .machinery.shapes100 import make_shapes100

        print(f"Shapes-100 is in {make_shapes100(args.out or 'shapes100.tar.gz', seed=args.seed)}")
    else:
        found = locate_cifar100()
        for place, path in known_places():
            print(f"{'found' if os.path.exists(path) else '-':<6} {place:<18} {path}")
        print(f"CIFAR-100: {found}" if found else how_to_get())


def command_grade(args):
    from .machinery.grading import grade

    _quiet_setup()
    rows = grade(args.folder, args.csv, args.seconds, args.jobs)
    print(f"the table of {len(rows)} lessons is in {args.csv}")
    ungraded = [name for name, lesson, *_ in rows if not lesson]
    if ungraded:
        print(f"error: not graded: {', '.join(map(ascii, ungraded))}", file=sys.stderr)
    return int(bool(ungraded))


def command_aistudio(args):
    from .machinery.aistudio import write_bundle

    path = write_bundle(args.out)
    print(
        f"{path}: {path.stat().st_size / 2**20:.1f} MB; on AI Studio make a notebook project, "
        "upload it, unzip it in /home/aistudio and open main.ipynb"
    )


def command_doctor(args):
    from .machinery.doctor import examine

    return examine()


def _quiet_setup():
    """Prepare the process without the line that `setup` prints."""
    import contextlib
    import io

    from . import setup

    with contextlib.redirect_stdout(io.StringIO()):
        setup(data="given")


def main(arguments=None):
    """Run a command; return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        args = parser(recipe_options() if arguments[:1] == ["train"] else ()).parse_args(arguments)
        return {
            "train": command_train,
            "evaluate": command_evaluate,
            "gamma": command_gamma,
            "data": command_data,
            "grade": command_grade,
            "aistudio": command_aistudio,
            "doctor": command_doctor,
        }[args.command](args) or 0
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except NamEduError as error:
        if hasattr(error, "signal"):  # asked to stop: not a failure of the program
            print(error, file=sys.stderr)
            return 128 + error.signal
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.strerror is None:  # not the system's words about a file, a disk or a network
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"error: {where}{error.strerror}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if error.name in ("numpy", "matplotlib", "tqdm", "visualdl", *OF_JUPYTER):
            print(
                f"error: {error.name} is not installed: pip install {error.name}; "
                "python -m nam_edu doctor says what else is missing",
                file=sys.stderr,
            )
            return 1
        if error.name != "paddle":
            raise
        print(
            "error: PaddlePaddle is not installed: pip install -r requirements.txt (without a "
            "GPU) or pip install -r requirements-gpu.txt",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):  # a path in Chinese, written to a file in ASCII
        stream.reconfigure(errors="backslashreplace")
    sys.exit(main())
