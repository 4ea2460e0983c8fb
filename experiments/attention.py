"""Attention modules side by side on the real CIFAR-100: python -m experiments.attention.

    run GROUP ...   train and examine what is missing of these groups (see GROUPS), two runs at a
                    time, each on one thread, at low priority; Ctrl-C or SIGTERM stops it after the
                    steps that it is in, and it goes on from there the next time
    status          what is done, what is left, and about how long that takes
    collect         copy the rows of finished runs into the CSV files of results/, as `run` does
                    after each run
    report          refresh the tables, words and figures of results/attention.md and the READMEs,
                    from the CSV files alone (see evidence.py)

`--runs FOLDER` is where the runs are kept while they are made, `--results FOLDER` where their rows
go. A run whose rows are there is done: its folder may be lost. So the runs can be made in a `git
worktree` of one commit, and their rows be kept in another checkout.

The first round, the pilot, is in runs.csv, curves.csv, gates.csv, fixed.csv and removed.csv; the
second, whose protocol is results/protocol.md, in runs2.csv, curves2.csv, gates2.csv and fixed2.csv.

Every run reports the accuracy after the last epoch: on the 10,000 test images after training on all
50,000, or, where images are held out (`rates`), on those. Runs of one seed are paired: same order
of the images and same augmentation. Nothing is chosen on the test images.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from experiments import protocol

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "attention"
RESULTS = ROOT / "results"
PROBED = 1000  # test images whose gates are looked at during training


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run: an attention, a seed, a network, and what differs from the usual recipe.

    part: of the second round "repeat", "a", "rates", "b" or "c"; empty in the first. validation:
    training images that are held out, and reported on in place of the test images.
    """

    attention: str
    seed: int
    width: int = 32
    epochs: int = 10
    penalty: float = 0.0
    gamma_decay: float = 1.0
    last_gamma: float = 1.0
    learning_rate: float = 0.1
    validation: int = 0
    part: str = ""

    @property
    def network(self):
        return f"resnet18-width{self.width}"

    @property
    def setting(self):
        if self.penalty:
            return f"penalty {self.penalty:g}"
        if self.last_gamma != 1:
            return f"last gamma {self.last_gamma:g}"
        if self.part == "rates":
            return f"rate {self.learning_rate:g}"
        return {1.0: "", 0.0: "no decay on gamma"}.get(
            self.gamma_decay, f"gamma decay {self.gamma_decay:g}"
        )

    @property
    def name(self):
        setting = f"-{self.setting.replace(' ', '-')}" if self.setting else ""
        kind = self.part or f"{self.network}-{self.epochs}"
        return f"{kind}-{self.attention}{setting}-{self.seed}"

    def recipe(self):
        from nam_edu.data import CIFAR100_MEAN, CIFAR100_STD
        from nam_edu.recipes import Recipe

        return Recipe(
            "evidence",
            "cifar100",
            width=self.width,
            attention=self.attention,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            nesterov=True,
            penalty=self.penalty,
            gamma_decay=self.gamma_decay,
            last_gamma=self.last_gamma,
            validation=self.validation,
            seed=self.seed,
            mean=CIFAR100_MEAN,
            std=CIFAR100_STD,
        )

    def probes(self, epoch):
        """Whether the gates are looked at after this epoch: in long runs not after every one."""
        return epoch <= 10 or epoch % 5 == 0


def group(attentions, seeds, **settings):
    """The trials of these attentions with these seeds, seed by seed."""
    return [Trial(attention, seed, **settings) for seed in seeds for attention in attentions]


PILOT = {
    "main": group(("none", "half", "se", "nam"), range(6)),
    "wider": group(("cbam", "eca", "nam-detached", "nam-spatial"), range(3)),
    "penalty": [
        t
        for p, seeds in ((1e-5, 2), (1e-4, 3), (1e-3, 2))
        for t in group(("nam",), range(seeds), penalty=p)
    ],
    "decay": group(("nam",), range(3), gamma_decay=0.0),
    "wide": group(("none", "half", "nam"), range(2), width=64, epochs=4),
}
MECHANISM = (  # the arms of part A
    {"attention": "none"},
    {"attention": "none", "last_gamma": 0.5},
    {"attention": "half"},
    {"attention": "half", "last_gamma": 2.0},
    {"attention": "quarter"},
    {"attention": "nam"},
    {"attention": "nam-times-c"},
    {"attention": "nam", "gamma_decay": protocol.GAMMA_DECAY},
    {"attention": "nam-gate-only"},
)
ROUND_2 = {
    "round2-repeat": group(("nam",), (0,), part="repeat"),
    "round2-a": [
        Trial(seed=seed, part="a", **arm) for seed in protocol.SEEDS["a"] for arm in MECHANISM
    ],
    "round2-rates": [
        Trial(attention, seed, learning_rate=rate, validation=protocol.HELD_OUT, part="rates")
        for seed in protocol.SEEDS["rates"]
        for rate in protocol.RATES
        for attention in ("none", "half")
    ],
    "round2-b": group(("none", "half", "nam"), protocol.SEEDS["b"], epochs=60, part="b"),
    "round2-c": group(("nam", "half"), protocol.SEEDS["c"], width=64, epochs=20, part="c"),
}
GROUPS = {**PILOT, **ROUND_2}
TABLES = {  # the CSV files of each round, without .csv
    1: ("runs", "curves", "gates", "fixed", "removed"),
    2: ("runs2", "curves2", "gates2", "fixed2"),
}
GPU_TABLES = ("runs-gpu", "curves-gpu", "gates-gpu", "fixed-gpu")  # made by gpu.py


# ------------------------------------------------------------------------------------ one run

GATE_COLUMNS = (
    "epoch",
    "layer",
    "gamma_mean",
    "gamma_std",
    "weight_low",
    "weight_high",
    "gate_low",
    "gate_high",
    "gate_mean",
    "gate_std",
    "gate_profile_std",
)
SHARES = (0.1, 0.3, 0.5)  # of the channels that are removed
DRAWS = 3  # random orders of removal


def load():
    """CIFAR-100, and the package, set up: in a process of its own."""
    import nam_edu

    nam_edu.setup()
    from nam_edu.data import load_data

    return load_data("cifar100")


def commit():
    """The full hash of the commit that is checked out. Exits where a file, those in results/ aside,
    differs from it: a row names the commit that made it."""

    def git(*command):
        return subprocess.run(
            ["git", *command], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ".", ":!results")
        if changed:
            sys.exit(
                "there are changes that are not committed: commit them, so that the rows of the "
                f"runs can name the commit that made them; first: {changed.splitlines()[0]}"
            )
        return git("rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"the commit is unknown, so the runs could not name it: {error}")


def of_one_commit(made, here):
    """Exit where rows or a run of the second round were made by another commit than the one that is
    here, or with another archive."""
    for key in ("commit", "data_md5"):
        if made[key] != here[key]:
            sys.exit(
                f"{made.get('run', 'the run')} was made with {key} {made[key]}, but here it is "
                f"{here[key]}: the second round comes from one commit and one archive; go on in a "
                "git worktree of that commit, with that archive"
            )


def origin_file(folder):
    """Beside the folder of a run, which is empty until the run itself begins."""
    return folder.with_name(f"{folder.name}.origin.json")


def origin(folder):
    """Where a run comes from, {"commit", "started", "data_md5"}; {} for runs from before that was
    kept."""
    path = origin_file(folder)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_origin(folder, here):
    """Keep where a run comes from as it starts; a run that goes on keeps its own."""
    from nam_edu.machinery.files import write_text

    if not origin(folder) and not (folder / "run.json").exists():
        started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        write_text(origin_file(folder), json.dumps({**here, "started": started}))


def train(trial):
    """Train one trial, in this process, or go on with it."""
    archive = load()
    import numpy as np
    from paddle.callbacks import Callback

    from nam_edu.attention import nam_layers
    from nam_edu.evaluation import gates
    from nam_edu.machinery.run_folder import newest_state
    from nam_edu.training import fit

    folder = RUNS / trial.name
    probed = archive.test.images[:PROBED]
    state = newest_state(folder)
    done = state[1]["epoch"] if state else 0  # epochs

    class GateProbe(Callback):
        """After an epoch, before its evaluation, a row per NAM layer: its gamma, W and gate."""

        def on_epoch_end(self, epoch, logs=None):
            epoch += 1 + done
            if not trial.probes(epoch):
                return
            network = self.model.network
            layers = dict(nam_layers(network))
            rows = read_rows(folder / "gates.csv")
            for name, gate in gates(network, probed).items():
                gamma = np.abs(layers[name].bn.weight.numpy())
                values = (
                    gamma.mean(),
                    gamma.std(),
                    gate.weights_low,
                    gate.weights_high,
                    gate.low,
                    gate.high,
                    gate.mean,
                    gate.std,
                    gate.profile_std,
                )
                row = (epoch, name, *(f"{value:.6g}" for value in values))
                rows.append(dict(zip(GATE_COLUMNS, row)))
            write_rows(folder / "gates.csv", rows)

    # An epoch that was probed but not saved is done again.
    saved = [row for row in read_rows(folder / "gates.csv") if int(row["epoch"]) <= done]
    if saved:
        write_rows(folder / "gates.csv", saved)
    else:
        (folder / "gates.csv").unlink(missing_ok=True)
    callbacks = [GateProbe()] if trial.attention.startswith("nam") else []
    fit(trial.recipe(), out=folder, resume=True, progress=False, callbacks=callbacks)


def with_fixed_gates(network, split, learned, measured, only=None):
    """Top-1 with the learned gates (`learned`: their first choices), and with constants in their
    place: 1/2, each layer's mean gate, each channel's mean gate; and how many first choices that
    changes. only: one layer."""
    import numpy as np

    from nam_edu.evaluation import fixed_gates, predict

    of_layer = {
        name: dataclasses.replace(gate, profile=np.full_like(gate.profile, gate.mean))
        for name, gate in measured.items()
    }
    row = {
        "layer": only or "all",
        "images": len(split),
        "top1": f"{100 * (learned == split.fine).mean():.2f}",
    }
    for name, gate in (("half", 0.5), ("layer", of_layer), ("mean", measured)):
        with fixed_gates(network, gate, only):
            choices = predict(network, split.images).argmax(1)
        row[f"top1_{name}"] = f"{100 * (choices == split.fine).mean():.2f}"
        row[f"changed_{name}"] = int((choices != learned).sum())
    return row


def examine(trial):
    """Of one finished run, over all test images: constants in place of the gates, in all layers at
    once and layer by layer, into fixed-end.csv; channels removed (of the pilot's main runs), into
    removed.csv."""
    test = load().test
    from nam_edu.attention import nam_layers
    from nam_edu.evaluation import evaluate, gates, predict, without_channels
    from nam_edu.runs import open_run

    folder = RUNS / trial.name
    network = open_run(folder).network
    layers = [name for name, _ in nam_layers(network)]
    if layers:
        learned, measured = predict(network, test.images).argmax(1), gates(network, test.images)
        write_rows(
            folder / "fixed-end.csv",
            [
                {"epoch": trial.epochs, **with_fixed_gates(network, test, learned, measured, only)}
                for only in [None, *layers]
            ],
        )
    if trial not in GROUPS["main"]:
        return
    kinds = [
        (of, order, 0)
        for of in (["nam"] if layers else []) + ["bn"]
        for order in ("lowest", "highest")
    ]
    kinds += [("", "random", draw) for draw in range(DRAWS)]
    rows = [
        {
            "of": "",
            "order": "none",
            "draw": 0,
            "share": 0,
            "top1": f"{evaluate(network, test).top1:.2f}",
        }
    ]
    for of, order, draw in kinds:
        for share in SHARES:
            with without_channels(network, share, order, of or "bn", draw):
                top1 = evaluate(network, test).top1
            rows.append(
                {"of": of, "order": order, "draw": draw, "share": share, "top1": f"{top1:.2f}"}
            )
    write_rows(folder / "removed.csv", rows)


def finished(trial):
    """Whether the folder of a run holds all that it is to leave: training, and what `examine`
    writes."""
    folder = RUNS / trial.name
    files = ["fixed-end.csv"] if trial.attention.startswith("nam") else []
    files += ["removed.csv"] if trial in GROUPS["main"] else []
    return len(read_rows(folder / "log.csv")) == trial.epochs and all(
        (folder / name).exists() for name in files
    )


def collected(round=2):
    """The rows of the runs whose results are kept: {name: row}."""
    return {row["run"]: row for row in read_rows(RESULTS / f"{TABLES[round][0]}.csv")}


def wanted(trial, rows):
    """Whether the protocol asks for this run: in part B 10 or 14 seeds, by its rule. rows: those of
    the runs that are there, by name."""
    return trial.part not in protocol.SEEDS or trial.seed in protocol.seeds_of(
        trial.part, rows.values(), protocol.CUT.get(TABLES[2][0])
    )


def left_of(groups):
    """The trials of these groups that are to be made and are not done, in their order."""
    rows = {**collected(1), **collected(2)}
    return [t for g in groups for t in GROUPS[g] if t.name not in rows and wanted(t, rows)]


def run(groups, processes):
    """Make what is missing of these groups, so many runs at a time; returns whether all went
    well."""
    here = {"commit": commit(), "data_md5": todays_md5()}
    for row in collected(2).values():
        of_one_commit(row, here)
    running, failed, stopping = {}, set(), []

    def stop(number, frame):
        stopping.append(number)
        for process in running:
            process.terminate()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        collect()  # what finished as an earlier call was ended
        print(f"{len(left_of(groups))} runs to make", flush=True)
        while True:
            waiting = [t for t in left_of(groups) if t not in failed and t not in running.values()]
            while waiting and len(running) < processes and not stopping:
                trial = waiting.pop(0)
                of_one_commit({"commit": commit(), "data_md5": here["data_md5"]}, here)
                running[start(trial, here)] = trial
                if stopping:  # the signal came before the process was in `running`
                    stop(stopping[-1], None)
            if not running:
                break
            process = next_to_end(running)
            trial = running.pop(process)
            if finished(trial):
                collect()
                print(f"{trial.name}: done", flush=True)
            elif stopping:
                print(f"{trial.name}: stopped", flush=True)
            else:
                failed.add(trial)
                print(f"{trial.name}: FAILED, see {RUNS / trial.name}.log", flush=True)
    finally:
        for process in running:  # where something went wrong here
            process.terminate()
        for number, handler in before.items():
            signal.signal(number, handler)
    return not failed


def start(trial, here):
    """A process that makes one run, on one thread. It does not hear a Ctrl-C in the terminal."""
    folder = RUNS / trial.name
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "experiments.attention", "--runs", str(RUNS), "one"]
    with open(RUNS / f"{trial.name}.log", "a") as log:
        return subprocess.Popen(
            [*command, json.dumps(dataclasses.asdict(trial)), json.dumps(here)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def next_to_end(running):
    """The first of these processes that ends."""
    while True:
        for process in running:
            if process.poll() is not None:
                return process
        time.sleep(0.2)


def one(trial, here):
    """Make one run, in this process."""
    from nam_edu.machinery.errors import Stopped

    if hasattr(os, "nice"):
        os.nice(10)
    folder = RUNS / trial.name
    write_origin(folder, here)
    if trial.part:
        of_one_commit({"run": trial.name, **origin(folder)}, here)
    try:
        train(trial)
    except Stopped as stopped:
        sys.exit(str(stopped))
    examine(trial)


SECONDS = {32: 13, 64: 27}  # of an epoch, by width, of one of two runs at a time: a first guess


def status():
    """Print what is done and left of the second round, and about how long that takes."""
    rows = collected(2)
    seconds = {}
    for width in {trial.width for trials in ROUND_2.values() for trial in trials}:
        known = [r for r in rows.values() if r["network"] == f"resnet18-width{width}"]
        measured = [float(r["seconds"]) / int(r["epochs"]) for r in known]
        guess = SECONDS.get(width, SECONDS[32])
        seconds[width] = statistics.median(measured) if known else guess  # some were paused
    total = 0.0
    for name, trials in ROUND_2.items():
        asked = [t for t in trials if wanted(t, rows)]
        left = [t for t in asked if t.name not in rows]
        begun = [t for t in left if (RUNS / t.name / "run.json").exists()]
        epochs = sum(t.epochs - len(read_rows(RUNS / t.name / "log.csv")) for t in left)
        hours = epochs * seconds[trials[0].width] / 2 / 3600
        total += hours
        print(
            f"{name:<14}{len(asked) - len(left):>4} of {len(asked):>3} done, {len(begun)} begun, "
            f"{epochs} epochs left: about {hours:.1f} hours"
        )
    cut = protocol.CUT.get(TABLES[2][0], {})
    if "b" not in cut:
        seeds = protocol.seeds_of("b", rows.values())
        print(f"part B: {len(seeds)} seeds, as far as its rule can tell by now")
    print("".join(f"part {part} was cut at {seeds} seeds\n" for part, seeds in cut.items()), end="")
    print(f"about {total:.1f} hours for two runs at a time")


# ------------------------------------------------------------------------------------ the tables


def read_rows(path):
    """The rows of a CSV file as dictionaries; none where there is no file."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path, rows):
    """Write dictionaries as a CSV file, whole or not at all; what a row lacks stays empty."""
    from nam_edu.machinery.files import write_text

    text = io.StringIO()
    columns = list(dict.fromkeys(column for row in rows for column in row))
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def todays_md5():
    """The md5 of the archive that is here now."""
    from nam_edu.data import how_to_get, locate_cifar100
    from nam_edu.machinery.files import file_md5

    archive = locate_cifar100()
    if archive is None:
        sys.exit(how_to_get)
    return file_md5(archive)


def collect():
    """Copy the rows of all finished runs into the CSV files: a row per run, per epoch, per layer
    and probed epoch, per way of fixing the gates, per way of removing channels. Rows that are there
    and whose run folders are not here are kept. A second call changes nothing.

    A row keeps the md5 of the data that it was made with: of today's archive only where a run is
    new and brings none. `commit` and `started` are empty for runs from before they were kept.
    """
    for round, groups in ((1, PILOT), (2, ROUND_2)):
        trials = {t.name: (name, t) for name, of_group in groups.items() for t in of_group}
        known = collected(round)
        here = [name for name, (_, trial) in trials.items() if finished(trial)]
        if not here:
            continue
        found = [rows_of(trials[name][1], trials[name][0], known.get(name)) for name in here]
        order = {name: place for place, name in enumerate(trials)}
        for i, table in enumerate(TABLES[round]):
            rows = [row for of_run in found for row in of_run[i]]
            rows += [r for r in read_rows(RESULTS / f"{table}.csv") if r["run"] not in here]
            if rows:
                rows.sort(key=lambda row: order[row["run"]])
                write_rows(RESULTS / f"{table}.csv", rows)
        print(f"{len(here)} finished runs of round {round} here", flush=True)


def rows_of(trial, group_name, known=None):
    """The rows of one finished run, for each of the five tables. known: its row in runs.csv."""
    folder, run = RUNS / trial.name, {"run": trial.name}
    log = read_rows(folder / "log.csv")
    about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    end, made = log[-1], origin(folder)
    row = {
        "attention": trial.attention,
        "seed": trial.seed,
        "network": trial.network,
        "epochs": trial.epochs,
        "top1": f"{float(end['eval_top1']):.2f}",
        "top5": f"{float(end['eval_top5']):.2f}",
        "setting": trial.setting,
        "group": group_name,
        "cross_entropy": f"{float(end['eval_cross_entropy']):.4f}",
        "train_top1": f"{float(end['top1']):.2f}",
        "seconds": round(sum(float(row["seconds"]) for row in log)),
        "recipe": json.dumps(about["recipe"]),
        "command": f"python -m experiments.attention run {group_name}",
        "data_md5": (made or known or {}).get("data_md5") or todays_md5(),
        "versions": json.dumps(about["versions"]),
        "machine": about["machine"],
        "date": about["started"][:10],
        "commit": made.get("commit", ""),
        "started": made.get("started", ""),
        **run,
    }
    if trial.part:
        row["evaluated_on"] = end["evaluated_on"]
    columns = (
        "loss",
        "top1",
        "eval_cross_entropy",
        "eval_top1",
        "eval_top5",
        "learning_rate",
        "seconds",
    )
    curves = [
        {**run, "epoch": row["epoch"], **{k: f"{float(row[k]):.5g}" for k in columns}}
        for row in log
    ]

    def of_file(*names):
        return [{**run, **row} for name in names for row in read_rows(folder / f"{name}.csv")]

    return [row], curves, of_file("gates"), of_file("fixed", "fixed-end"), of_file("removed")


def main():
    global RUNS, RESULTS
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=RUNS, help="where runs are kept")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where their rows go")
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="train and examine what is missing of these groups")
    runner.add_argument(
        "groups",
        nargs="+",
        choices=[*GROUPS, "round2"],
        metavar="GROUP",
        help=f"{', '.join(GROUPS)}; round2 is all of its groups, in the protocol's order",
    )
    runner.add_argument(
        "--processes", type=int, default=2, help="runs at a time, each on one thread (default: 2)"
    )
    commands.add_parser("status", help="what is done and what is left of the second round")
    commands.add_parser("collect", help="write the CSV files of results/")
    commands.add_parser("report", help="refresh the tables, words and figures")
    single = commands.add_parser("one")
    single.add_argument("trial", type=json.loads)
    single.add_argument("here", type=json.loads)
    args = parser.parse_args()
    RUNS, RESULTS = args.runs.resolve(), args.results.resolve()
    if args.command == "run":
        groups = [g for name in args.groups for g in (ROUND_2 if name == "round2" else [name])]
        sys.exit(0 if run(groups, args.processes) else 1)
    elif args.command == "one":
        one(Trial(**args.trial), args.here)
    elif args.command == "report":
        from experiments.evidence import report

        report(RESULTS)
    else:
        {"status": status, "collect": collect}[args.command]()


if __name__ == "__main__":
    main()
