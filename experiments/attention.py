"""Attention modules side by side on the real CIFAR-100: python -m experiments.attention.

    run GROUP ...   train what is missing of these groups (see GROUPS), two runs at a time, each on
                    one thread; stop it when you like, it goes on where it stopped
    examine         of every finished run that has not been: fix the gates, remove channels
    collect         write the CSV files of results/ from the finished runs
    report          refresh the tables and figures in results/attention.md and the READMEs, from
                    the CSV files alone (see evidence.py)

Every run trains on all 50,000 images and reports the accuracy on the 10,000 test images after the
last epoch. Runs of one seed are paired: same order of the images and same augmentation. Nothing is
chosen on the test images.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import io
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "attention"
RESULTS = ROOT / "results"
PROBED = 1000  # test images whose gates are looked at after each epoch


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run: an attention, a seed, a network and, for NAM, a setting that differs."""

    attention: str
    seed: int
    width: int = 32
    epochs: int = 10
    penalty: float = 0.0
    decay_gamma: bool = True

    @property
    def network(self):
        return f"resnet18-width{self.width}"

    @property
    def setting(self):
        if self.penalty:
            return f"penalty {self.penalty:g}"
        return "" if self.decay_gamma else "no decay on gamma"

    @property
    def name(self):
        setting = f"-{self.setting.replace(' ', '-')}" if self.setting else ""
        return f"{self.network}-{self.epochs}-{self.attention}{setting}-{self.seed}"

    def recipe(self):
        from nam_edu.data import CIFAR100_MEAN, CIFAR100_STD
        from nam_edu.recipes import Recipe

        return Recipe(
            "evidence",
            "cifar100",
            width=self.width,
            attention=self.attention,
            epochs=self.epochs,
            nesterov=True,
            penalty=self.penalty,
            gamma_decay=1.0 if self.decay_gamma else 0.0,
            seed=self.seed,
            mean=CIFAR100_MEAN,
            std=CIFAR100_STD,
        )


def group(attentions, seeds, **settings):
    """The trials of these attentions with these seeds, seed by seed."""
    return [Trial(attention, seed, **settings) for seed in seeds for attention in attentions]


GROUPS = {
    "main": group(("none", "half", "se", "nam"), range(6)),
    "wider": group(("cbam", "eca", "nam-detached", "nam-spatial"), range(3)),
    "penalty": [
        t
        for p, seeds in ((1e-5, 2), (1e-4, 3), (1e-3, 2))
        for t in group(("nam",), range(seeds), penalty=p)
    ],
    "decay": group(("nam",), range(3), decay_gamma=False),
    "wide": group(("none", "half", "nam"), range(2), width=64, epochs=4),
}


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
    """The full hash of the commit that is checked out. Exits where the code differs from it: a row
    names the commit that made it."""

    def git(*command):
        return subprocess.run(
            ["git", *command], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.strip()

    try:
        if git("status", "--porcelain", "--", "nam_edu", "experiments"):
            sys.exit(
                "nam_edu/ or experiments/ has changes that are not committed: commit them, "
                "so that the rows of the runs can name the commit that made them"
            )
        return git("rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"the commit is unknown, so the runs could not name it: {error}")


def origin(folder):
    """Where a run comes from: {"commit", "started", "data_md5"}, kept beside it in origin.json;
    empty for runs from before there was such a file."""
    path = folder / "origin.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_origin(folder):
    """Write origin.json as the run starts; a run that goes on keeps its own."""
    from nam_edu.machinery.files import write_text

    if not origin(folder) and not (folder / "run.json").exists():
        started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        write_text(
            folder / "origin.json",
            json.dumps({"commit": commit(), "started": started, "data_md5": todays_md5()}),
        )


def train(trial):
    """Train one trial, in this process, or go on with it."""
    archive = load()
    import numpy as np
    from paddle.callbacks import Callback

    from nam_edu.attention import nam_layers
    from nam_edu.evaluation import gates, predict
    from nam_edu.training import fit

    folder = RUNS / trial.name
    write_origin(folder)
    probed = archive.test.take(np.arange(PROBED))

    class GateProbe(Callback):
        """After each epoch a row per NAM layer: its gamma, its W and its gate; and a row with what
        is left of the accuracy when all gates are fixed."""

        def on_eval_end(self, logs=None):
            network = self.model.network
            layers = dict(nam_layers(network))
            rows, fixed = read_rows(folder / "gates.csv"), read_rows(folder / "fixed.csv")
            epoch = 1 + max((int(row["epoch"]) for row in rows), default=0)
            measured = gates(network, probed.images)
            for name, gate in measured.items():
                gamma = np.abs(layers[name].bn.weight.numpy())
                rows.append(
                    dict(
                        zip(
                            GATE_COLUMNS,
                            (
                                epoch,
                                name,
                                *(
                                    f"{v:.6g}"
                                    for v in (
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
                                ),
                            ),
                        )
                    )
                )
            write_rows(folder / "gates.csv", rows)
            learned = predict(network, probed.images).argmax(1)
            fixed.append({"epoch": epoch, **with_fixed_gates(network, probed, learned, measured)})
            write_rows(folder / "fixed.csv", fixed)

    done = len(read_rows(folder / "log.csv"))
    for name in ("gates.csv", "fixed.csv"):  # an epoch that was probed but not saved is done again
        rows = [row for row in read_rows(folder / name) if int(row["epoch"]) <= done]
        if rows:
            write_rows(folder / name, rows)
    callbacks = [GateProbe()] if trial.attention.startswith("nam") else []
    fit(trial.recipe(), out=folder, resume=True, progress=False, callbacks=callbacks)


def with_fixed_gates(network, split, learned, measured, only=None):
    """Top-1 with the learned gates (`learned`: their first choices), with 1/2 and with each
    channel's mean gate in their place; and how many first choices that changes. only: one layer."""
    from nam_edu.evaluation import fixed_gates, predict

    row = {
        "layer": only or "all",
        "images": len(split),
        "top1": f"{100 * (learned == split.fine).mean():.2f}",
    }
    for name, gate in (("half", 0.5), ("mean", measured)):
        with fixed_gates(network, gate, only):
            choices = predict(network, split.images).argmax(1)
        row[f"top1_{name}"] = f"{100 * (choices == split.fine).mean():.2f}"
        row[f"changed_{name}"] = int((choices != learned).sum())
    return row


def examine(trial):
    """Of one finished run, over all test images: fixed gates, all at once and layer by layer, into
    fixed-end.csv; channels removed (of the main runs), into removed.csv."""
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


def in_processes(what, trials, done, processes):
    """Do "train" or "examine" for each of these trials that is not done, so many at a time."""
    waiting = [trial for trial in trials if not done(trial)]
    print(f"{len(waiting)} runs to {what}", flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = {}
    while waiting or running:
        while waiting and len(running) < processes:
            trial = waiting.pop(0)
            (RUNS / trial.name).mkdir(parents=True, exist_ok=True)
            log = open(RUNS / f"{trial.name}.log", "a")  # noqa: SIM115
            running[
                subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "experiments.attention",
                        "one",
                        what,
                        json.dumps(dataclasses.asdict(trial)),
                    ],
                    cwd=ROOT,
                    env=environment,
                    stdout=log,
                    stderr=log,
                )
            ] = trial
        pid, _ = os.wait()
        process = next(p for p in running if p.pid == pid)
        trial = running.pop(process)
        print(f"{trial.name}: {'done' if done(trial) else 'FAILED, see its log'}", flush=True)


def all_trials():
    """The trials of all groups, in their order."""
    return [trial for trials in GROUPS.values() for trial in trials]


def finished(trial):
    """Whether a run has trained its last epoch."""
    return len(read_rows(RUNS / trial.name / "log.csv")) == trial.epochs


def examined(trial):
    """Whether the last file of `examine` is there."""
    last = "removed.csv" if trial in GROUPS["main"] else "fixed-end.csv"
    return (RUNS / trial.name / last).exists()


# ------------------------------------------------------------------------------------ the tables


def read_rows(path):
    """The rows of a CSV file as dictionaries; none where there is no file."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path, rows):
    """Write dictionaries as a CSV file, whole or not at all."""
    from nam_edu.machinery.files import write_text

    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def todays_md5():
    """The md5 of the archive that is here now."""
    from nam_edu.data import HOW_TO_GET, locate_cifar100
    from nam_edu.machinery.files import file_md5

    archive = locate_cifar100()
    if archive is None:
        sys.exit(HOW_TO_GET)
    return file_md5(archive)


def collect():
    """Write the results of all finished runs: a row per run, per epoch, per layer and epoch, per
    way of fixing the gates, per way of removing channels. Rows of runs that were made elsewhere,
    whose folders are not here, are kept.

    A row keeps the md5 of the data that it was made with: of today's archive only where a run is
    new and brings none. `commit` and `started` are empty for runs from before they were kept.
    """
    tables = {name: [] for name in ("runs", "curves", "gates", "fixed", "removed")}
    known = {row["run"]: row for row in read_rows(RESULTS / "runs.csv")}
    for group_name, trials in GROUPS.items():
        for trial in filter(finished, trials):
            folder, run = RUNS / trial.name, {"run": trial.name}
            log = read_rows(folder / "log.csv")
            about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            end, made = log[-1], origin(folder)
            md5 = (made or known.get(trial.name, {})).get("data_md5") or todays_md5()
            tables["runs"].append(
                {
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
                    "data_md5": md5,
                    "versions": json.dumps(about["versions"]),
                    "machine": about["machine"],
                    "date": about["started"][:10],
                    "commit": made.get("commit", ""),
                    "started": made.get("started", ""),
                    **run,
                }
            )
            tables["curves"] += [
                {
                    **run,
                    "epoch": row["epoch"],
                    **{
                        k: f"{float(row[k]):.5g}"
                        for k in (
                            "loss",
                            "top1",
                            "eval_cross_entropy",
                            "eval_top1",
                            "eval_top5",
                            "learning_rate",
                            "seconds",
                        )
                    },
                }
                for row in log
            ]
            tables["gates"] += [{**run, **row} for row in read_rows(folder / "gates.csv")]
            for name in ("fixed", "fixed-end"):
                tables["fixed"] += [{**run, **row} for row in read_rows(folder / f"{name}.csv")]
            tables["removed"] += [{**run, **row} for row in read_rows(folder / "removed.csv")]
    order = [trial.name for trial in all_trials()]
    for name, rows in tables.items():
        here = {row["run"] for row in rows}
        kept = [row for row in read_rows(RESULTS / f"{name}.csv") if row["run"] not in here]
        if name == "runs":
            kept = [
                {
                    **{k: v for k, v in row.items() if k != "run"},
                    "commit": row.get("commit", ""),
                    "started": row.get("started", ""),
                    "run": row["run"],
                }
                for row in kept
            ]
        rows += kept
        rows.sort(key=lambda row: order.index(row["run"]))
        if rows:
            write_rows(RESULTS / f"{name}.csv", rows)
    print(f"{len(tables['runs'])} finished runs")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    trainer = commands.add_parser("run", help="train what is missing of these groups")
    trainer.add_argument("groups", nargs="+", choices=list(GROUPS))
    examiner = commands.add_parser("examine", help="fix gates and remove channels")
    for command in (trainer, examiner):
        command.add_argument(
            "--processes",
            type=int,
            default=2,
            help="runs at a time, each on one thread (default: 2)",
        )
    commands.add_parser("collect", help="write the CSV files of results/")
    commands.add_parser("report", help="refresh the tables and figures")
    one = commands.add_parser("one")
    one.add_argument("what", choices=("train", "examine"))
    one.add_argument("trial")
    args = parser.parse_args()
    if args.command == "run":
        in_processes("train", [t for g in args.groups for t in GROUPS[g]], finished, args.processes)
    elif args.command == "examine":
        looked_at = [
            t
            for t in all_trials()
            if finished(t) and (t.attention.startswith("nam") or t in GROUPS["main"])
        ]
        in_processes("examine", looked_at, examined, args.processes)
    elif args.command == "collect":
        collect()
    elif args.command == "report":
        from experiments.evidence import report

        report()
    else:
        {"train": train, "examine": examine}[args.what](Trial(**json.loads(args.trial)))


if __name__ == "__main__":
    main()
