"""Attention modules side by side on the real CIFAR-100: python -m benchmarks.attention.

    run GROUP ...   train what is missing of these groups (see GROUPS), two runs at a time, each on
                    one thread; stop it when you like, it goes on where it stopped
    collect         write results/runs.csv, results/curves.csv and results/gates.csv from the
                    finished runs

Every run trains on all 50,000 images and reports the accuracy on the 10,000 test images after the
last epoch. Runs of one seed are paired: same order of the images and same augmentation. Nothing is
chosen on the test images.
"""
from __future__ import annotations

import argparse
import csv
import dataclasses
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
        from nam_edu.training import Recipe

        return Recipe("evidence", "cifar100", width=self.width, attention=self.attention,
                      epochs=self.epochs, nesterov=True, penalty=self.penalty,
                      decay_gamma=self.decay_gamma, seed=self.seed, mean=CIFAR100_MEAN,
                      std=CIFAR100_STD)


def group(attentions, seeds, **settings):
    return [Trial(attention, seed, **settings) for seed in seeds for attention in attentions]


GROUPS = {
    "main": group(("none", "half", "se", "nam"), range(6)),
    "wider": group(("cbam", "eca", "nam-detached", "nam-spatial"), range(3)),
    "penalty": [t for p in (1e-5, 1e-4, 1e-3) for t in group(("nam",), range(3), penalty=p)],
    "decay": group(("nam",), range(3), decay_gamma=False),
    "wide": group(("none", "half", "nam"), range(2), width=64),
}


# ------------------------------------------------------------------------------------ one run

GATE_COLUMNS = ("epoch", "layer", "gamma_mean", "gamma_std", "weight_low", "weight_high",
                "gate_low", "gate_high", "gate_mean", "gate_std", "gate_profile_std")


def train(trial):
    """Train one trial, in this process, or go on with it."""
    import nam_edu

    nam_edu.setup(seed=trial.seed)
    import numpy as np
    from paddle.callbacks import Callback

    from nam_edu.attention import nam_layers
    from nam_edu.evaluation import gates
    from nam_edu.training import fit, load_data

    archive = load_data("cifar100")
    folder = RUNS / trial.name

    class GateProbe(Callback):
        """After each epoch a row per NAM layer: its gamma, its W and its gate."""

        def on_eval_end(self, logs=None):
            network = self.model.network
            layers = dict(nam_layers(network))
            rows = read_rows(folder / "gates.csv")
            epoch = 1 + max((int(row["epoch"]) for row in rows), default=0)
            for name, gate in gates(network, archive.test.images[:PROBED]).items():
                gamma = np.abs(layers[name].bn.weight.numpy())
                rows.append(dict(zip(GATE_COLUMNS, (
                    epoch, name, *(f"{v:.6g}" for v in (
                        gamma.mean(), gamma.std(), gate.weights_low, gate.weights_high, gate.low,
                        gate.high, gate.mean, gate.std, gate.profile_std))))))
            write_rows(folder / "gates.csv", rows)

    last = folder / "log.csv"
    done = len(read_rows(last))
    rows = [row for row in read_rows(folder / "gates.csv") if int(row["epoch"]) <= done]
    if rows:  # an epoch that was probed but not saved is done again
        write_rows(folder / "gates.csv", rows)
    callbacks = [GateProbe()] if trial.attention.startswith("nam") else []
    fit(trial.recipe(), out=folder, resume=True, progress=False, callbacks=callbacks)


def run(names, processes):
    """Train every trial of these groups that is not finished, `processes` at a time."""
    waiting = [trial for name in names for trial in GROUPS[name] if not finished(trial)]
    print(f"{len(waiting)} runs to do", flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = {}
    while waiting or running:
        while waiting and len(running) < processes:
            trial = waiting.pop(0)
            (RUNS / trial.name).mkdir(parents=True, exist_ok=True)
            log = open(RUNS / f"{trial.name}.log", "a")  # noqa: SIM115
            running[subprocess.Popen(
                [sys.executable, "-m", "benchmarks.attention", "one",
                 json.dumps(dataclasses.asdict(trial))],
                cwd=ROOT, env=environment, stdout=log, stderr=log)] = trial
        pid, _ = os.wait()
        process = next(p for p in running if p.pid == pid)
        trial = running.pop(process)
        print(f"{trial.name}: {'done' if finished(trial) else 'FAILED, see its log'}", flush=True)


def finished(trial):
    return len(read_rows(RUNS / trial.name / "log.csv")) == trial.epochs


# ------------------------------------------------------------------------------------ the tables

def read_rows(path):
    """The rows of a CSV file as dictionaries; none where there is no file."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path, rows):
    """Write dictionaries as a CSV file, whole or not at all."""
    from nam_edu.files import write_text

    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def collect():
    """Write the results of all finished runs: one row per run, per epoch, per layer and epoch."""
    from nam_edu.data import locate_cifar100
    from nam_edu.files import file_md5

    runs, curves, gate_rows = [], [], []
    md5 = file_md5(locate_cifar100())
    for name, trials in GROUPS.items():
        for trial in filter(finished, trials):
            folder = RUNS / trial.name
            log = read_rows(folder / "log.csv")
            about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            end = log[-1]
            runs.append({
                "attention": trial.attention, "seed": trial.seed, "network": trial.network,
                "epochs": trial.epochs, "top1": f"{float(end['eval_top1']):.2f}",
                "top5": f"{float(end['eval_top5']):.2f}", "setting": trial.setting, "group": name,
                "cross_entropy": f"{float(end['eval_cross_entropy']):.4f}",
                "train_top1": f"{float(end['top1']):.2f}",
                "seconds": round(sum(float(row["seconds"]) for row in log)),
                "recipe": json.dumps(about["recipe"]),
                "command": f"python -m benchmarks.attention run {name}", "data_md5": md5,
                "versions": json.dumps(about["versions"]), "machine": about["machine"],
                "date": about["started"][:10], "run": trial.name})
            curves += [{"run": trial.name, "epoch": row["epoch"],
                        **{k: f"{float(row[k]):.5g}" for k in (
                            "loss", "top1", "eval_cross_entropy", "eval_top1", "eval_top5",
                            "learning_rate", "seconds")}} for row in log]
            gate_rows += [{"run": trial.name, **row} for row in read_rows(folder / "gates.csv")]
    for file, rows in (("runs.csv", runs), ("curves.csv", curves), ("gates.csv", gate_rows)):
        if rows:
            write_rows(RESULTS / file, rows)
    print(f"{len(runs)} finished runs")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    trainer = commands.add_parser("run", help="train what is missing of these groups")
    trainer.add_argument("groups", nargs="+", choices=list(GROUPS))
    trainer.add_argument("--processes", type=int, default=2, help="runs at a time (default: 2)")
    commands.add_parser("collect", help="write the CSV files of results/")
    commands.add_parser("one").add_argument("trial")
    args = parser.parse_args()
    if args.command == "run":
        run(args.groups, args.processes)
    elif args.command == "collect":
        collect()
    else:
        train(Trial(**json.loads(args.trial)))


if __name__ == "__main__":
    main()
