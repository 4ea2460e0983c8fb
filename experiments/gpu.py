"""The runs of the second round in PyTorch on a GPU: python -m experiments.gpu ARCHIVE --out FOLDER.

The same arms, seeds, epochs and recipe as `python -m experiments.attention run round2`, written
apart: nothing of nam_edu is imported, and PyTorch draws other weights, orders and augmentations
from the same seeds. Needs torch, numpy and scipy; CIFAR-100's archive is read as it is published.

A step of one network is much too small for a GPU, so the runs of several seeds are made side by
side: each one's step is recorded once as a CUDA graph, and the graphs are replayed on streams of
their own. Rows go into runs-gpu.csv, curves-gpu.csv, gates-gpu.csv and fixed-gpu.csv as each batch
of runs ends, in the form of runs2.csv and its siblings; runs whose rows are there are left out.
Where not all fit into `--minutes`, the last seeds are not begun.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import hashlib
import json
import math
import pickle
import platform
import tarfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from benchmarks.torch_network import Block, torch_resnet
from experiments.attention import (
    GATE_COLUMNS,
    GPU_TABLES,
    PROBED,
    ROUND_2,
    commit,
    of_one_commit,
    read_rows,
    wanted,
)

PARTS = ("b", "a", "c", "rates")  # in this order
BATCH, MOMENTUM, WEIGHT_DECAY, PADDING = 128, 0.9, 5e-4, 4
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


# ------------------------------------------------------------------------------------- the gates


class Constant(nn.Module):
    """value * x."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value * x


class Gate(nn.Module):
    """The authors' channel module without their .data, so that W has a gradient: the gate is
    sigmoid(factor * W * BN(x)), W = |gamma| / sum |gamma|.

    times_c: factor C instead of 1. product: return gate * x, as their code does, or the gate alone.
    `fixed`, a number, takes the gate's place where it is set. `seen` collects gates where it is a
    list.
    """

    def __init__(self, channels, times_c=False, product=True):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.factor = channels if times_c else 1
        self.product = product
        self.fixed = self.seen = None

    def weights(self):
        gamma = self.bn.weight.abs()
        return gamma / gamma.sum()

    def forward(self, x):
        y = self.bn(x) * (self.factor * self.weights())[:, None, None]
        gate = torch.sigmoid(y)
        if self.seen is not None:
            self.seen.append(gate.double())
        if self.fixed is not None:
            gate = torch.full_like(gate, self.fixed)
        return gate * x if self.product else gate


ATTENTIONS = {
    "none": lambda channels: nn.Identity(),
    "half": lambda channels: Constant(0.5),
    "quarter": lambda channels: Constant(0.25),
    "nam": Gate,
    "nam-times-c": lambda channels: Gate(channels, times_c=True),
    "nam-gate-only": lambda channels: Gate(channels, product=False),
}


def network_of(trial, device="cpu"):
    """A new ResNet-18 of this trial. Weights as Paddle draws them: normal with variance 2 / fan-in
    in the convolutions, Xavier's uniform in the linear layer, whose bias is 0."""
    torch.manual_seed(trial.seed)
    network = torch_resnet(18, width=trial.width, attention=ATTENTIONS[trial.attention])
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
        elif isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, Block):
            nn.init.constant_(layer.branch[-1].weight, trial.last_gamma)
    return network.to(device)


def gates_of(network):
    """{name: gate}, named as nam_edu names them."""
    blocks = [layer for layer in network if isinstance(layer, Block)]
    names = [f"layer{i // 2 + 1}.{i % 2}.attention.channel" for i in range(len(blocks))]
    return {n: b.attention for n, b in zip(names, blocks) if isinstance(b.attention, Gate)}


# -------------------------------------------------------------------------------------- the data


def read_archive(path):
    """{"train" or "test": (uint8 images (N, 3, 32, 32), labels (N,))} of CIFAR-100's archive."""
    found = {}
    with tarfile.open(path) as archive:
        for split in ("train", "test"):
            raw = pickle.load(archive.extractfile(f"cifar-100-python/{split}"), encoding="latin1")
            images = np.asarray(raw["data"], np.uint8).reshape(-1, 3, 32, 32)
            found[split] = torch.from_numpy(images), torch.tensor(raw["fine_labels"])
    return found


class Images:
    """The images of one part on the device: training images with a black border, and those that
    are evaluated, normalised."""

    def __init__(self, data, held_out, seed, device):
        (images, labels), evaluated = data["train"], data["test"]
        if held_out:
            rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
            own, other = rows[held_out:], rows[:held_out]
            evaluated = images[other], labels[other]
            images, labels = images[own], labels[own]
        self.mean, self.std = (torch.tensor(v, device=device)[:, None, None] for v in (MEAN, STD))
        self.train = F.pad(images, (PADDING,) * 4).to(device)  # (N, 3, 40, 40)
        self.labels = labels.to(device)
        self.evaluated = self.normalised(evaluated[0].to(device))
        self.answers = evaluated[1].to(device)
        self.probed = self.normalised(data["test"][0][:PROBED].to(device))

    def normalised(self, images):
        return (images / 255 - self.mean) / self.std

    def batch(self, rows, corner, mirror):
        """Windows of these images: rows (B,), corner (B,) the upper left corner as a number in the
        image with its border, mirror (B,) 1 where it is turned left to right."""
        side = 32 + 2 * PADDING
        place = torch.arange(32, device=rows.device)
        x = torch.where(mirror[:, None] > 0, 31 - place, place)  # (B, 32)
        pixel = corner[:, None, None] + side * place[:, None] + x[:, None, :]  # (B, 32, 32)
        first = (3 * rows[:, None] + torch.arange(3, device=rows.device)) * side**2  # (B, 3)
        windows = self.train.view(-1)[first[:, :, None, None] + pixel[:, None]]
        return self.normalised(windows), self.labels[rows]


# -------------------------------------------------------------------------------------- training


def rate_of(trial, epoch):
    """The learning rate of an epoch, counted from 0."""
    return trial.learning_rate * (1 + math.cos(math.pi * epoch / trial.epochs)) / 2


class Training:
    """One run on one stream. graphs: record the step and replay it, which a GPU can."""

    def __init__(self, trial, images, graphs):
        self.trial, self.images, self.device = trial, images, images.train.device
        self.network = network_of(trial, self.device)
        if graphs:
            self.network = self.network.to(memory_format=torch.channels_last)
        self.generator = torch.Generator(self.device).manual_seed(trial.seed)
        n = len(images.labels)
        self.order, self.corner, self.mirror = torch.zeros(
            3, n, dtype=torch.long, device=self.device
        )
        self.done = torch.zeros((), dtype=torch.long, device=self.device)  # images of the epoch
        self.rate = torch.zeros((), device=self.device)
        self.loss, self.correct = torch.zeros(2, device=self.device)
        gammas = {id(gate.bn.weight) for gate in gates_of(self.network).values()}
        own = [p for p in self.network.parameters() if id(p) in gammas]
        rest = [p for p in self.network.parameters() if id(p) not in gammas]
        self.decays = [(rest, WEIGHT_DECAY), (own, WEIGHT_DECAY * trial.gamma_decay)]
        self.parameters = rest + own
        self.velocity = [torch.zeros_like(p) for p in self.parameters]
        self.sizes = [BATCH] * (n // BATCH) + [n % BATCH] * (n % BATCH > 0)
        self.seconds, self.curve, self.gate_rows, self.failed = 0.0, [], [], False
        self.stream = torch.cuda.Stream() if graphs else None
        self.steps = {size: lambda size=size: self.step(size) for size in set(self.sizes)}
        if graphs:
            self.record()

    def step(self, size):
        """One batch: Nesterov's momentum with weight decay on all parameters."""
        at = self.done + torch.arange(size, device=self.device)
        x, y = self.images.batch(self.order[at], self.corner[at], self.mirror[at])
        logits = self.network(x)
        loss = F.cross_entropy(logits, y)
        grads = torch.autograd.grad(loss, self.parameters)
        with torch.no_grad():
            self.loss += size * loss
            self.correct += (logits.argmax(1) == y).sum()
            self.done += size
            moves, first = [], 0
            for parameters, decay in self.decays:
                if parameters:
                    own = grads[first : first + len(parameters)]
                    moves += torch._foreach_add(own, parameters, alpha=decay)
                    first += len(parameters)
            torch._foreach_mul_(self.velocity, MOMENTUM)
            torch._foreach_add_(self.velocity, moves)
            torch._foreach_add_(moves, self.velocity, alpha=MOMENTUM)
            torch._foreach_mul_(moves, self.rate)
            torch._foreach_sub_(self.parameters, moves)

    def record(self):
        """Record the step of every size of batch; the weights are afterwards what they were."""
        state = {name: t.clone() for name, t in self.network.state_dict().items()}
        self.stream.wait_stream(torch.cuda.current_stream())
        for size in self.steps:
            with torch.cuda.stream(self.stream):
                for _ in range(3):
                    self.done.zero_()
                    self.step(size)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self.stream):
                self.step(size)
            self.steps[size] = graph.replay
        self.network.load_state_dict(state)
        for velocity in self.velocity:
            velocity.zero_()
        torch.cuda.synchronize()

    def begin_epoch(self, epoch):
        n, g = len(self.order), self.generator
        self.order.copy_(torch.randperm(n, generator=g, device=self.device))
        top, left = torch.randint(2 * PADDING + 1, (2, n), generator=g, device=self.device)
        self.corner.copy_(top * (32 + 2 * PADDING) + left)
        self.mirror.copy_(torch.randint(2, (n,), generator=g, device=self.device))
        self.rate.fill_(rate_of(self.trial, epoch))
        for counter in (self.done, self.loss, self.correct):
            counter.zero_()
        self.network.train()

    def end_epoch(self, epoch, seconds):
        """Evaluate, and look at the gates; epoch counts from 0."""
        self.seconds += seconds
        n, last = len(self.order), epoch + 1 == self.trial.epochs
        loss, correct = float(self.loss) / n, 100 * float(self.correct) / n
        self.failed |= not math.isfinite(loss)
        if self.trial.probes(epoch + 1) or last:
            cross_entropy, top1, top5, _ = self.evaluate()
            self.curve.append(
                {
                    "run": self.trial.name,
                    "epoch": epoch + 1,
                    "loss": f"{loss:.5g}",
                    "top1": f"{correct:.5g}",
                    "eval_cross_entropy": f"{cross_entropy:.5g}",
                    "eval_top1": f"{top1:.5g}",
                    "eval_top5": f"{top5:.5g}",
                    "learning_rate": f"{rate_of(self.trial, epoch):.5g}",
                    "seconds": f"{seconds:.4g}",
                }
            )
            self.gate_rows += [
                {"run": self.trial.name, "epoch": epoch + 1, "layer": name, **row}
                for name, row in self.look(self.images.probed)[0].items()
            ]

    @torch.no_grad()
    def logits(self, images):
        self.network.eval()
        return torch.cat([self.network(x) for x in images.split(1000)])

    def evaluate(self):
        """(cross-entropy, top-1, top-5, first choices) on the images that are reported on."""
        logits, answers = self.logits(self.images.evaluated), self.images.answers
        five = (logits.topk(5).indices == answers[:, None]).any(1)
        choices = logits.argmax(1)
        return (
            float(F.cross_entropy(logits, answers)),
            100 * float((choices == answers).double().mean()),
            100 * float(five.double().mean()),
            choices,
        )

    def look(self, images):
        """({name: GATE_COLUMNS but epoch and layer}, {name: mean gate}) over images."""
        found, means = {}, {}
        gates = gates_of(self.network)
        sums = {name: [] for name in gates}
        for part in images.split(1000):
            for gate in gates.values():
                gate.seen = []
            self.logits(part)
            for name, gate in gates.items():
                (g,), gate.seen = gate.seen, None
                centred = g - 0.5  # differences are small beside 1/2 itself
                sums[name].append(
                    [
                        g.amin().view(1),
                        g.amax().view(1),
                        centred.sum().view(1),
                        centred.square().sum().view(1),
                        centred.sum((0, 2, 3)),
                        torch.tensor([g.numel()], device=g.device),
                    ]
                )
        for name, gate in gates.items():
            low, high, total, squares, profile, count = (
                torch.stack(column) for column in zip(*sums[name])
            )
            n = float(count.sum())
            mean = float(total.sum()) / n
            profile = profile.sum(0) * len(profile.sum(0)) / n
            gamma, shares = gate.bn.weight.detach().abs().double(), gate.weights().detach()
            shares = shares * len(shares)
            values = (
                gamma.mean(),
                gamma.std(correction=0),
                shares.min(),
                shares.max(),
                low.min(),
                high.max(),
                0.5 + mean,
                math.sqrt(max(0.0, float(squares.sum()) / n - mean**2)),
                profile.std(correction=0),
            )
            found[name] = {k: f"{float(v):.6g}" for k, v in zip(GATE_COLUMNS[2:], values)}
            means[name] = 0.5 + mean
        return found, means

    def rows(self, about):
        """The rows of the finished run, for each of GPU_TABLES."""
        trial = self.trial
        cross_entropy, top1, top5, learned = self.evaluate()
        row = {
            "attention": trial.attention,
            "seed": trial.seed,
            "network": trial.network,
            "epochs": trial.epochs,
            "top1": f"{top1:.2f}",
            "top5": f"{top5:.2f}",
            "setting": trial.setting,
            "group": f"round2-{trial.part}",
            "cross_entropy": f"{cross_entropy:.4f}",
            "train_top1": f"{float(self.curve[-1]['top1']):.2f}",
            "seconds": f"{self.seconds:.0f}",
            "evaluated_on": "validation" if trial.validation else "test",
            "run": trial.name,
            **about,
        }
        fixed, gates = [], gates_of(self.network)
        if gates and not trial.validation:
            _, means = self.look(self.images.evaluated)
            fixed.append(
                {
                    "run": trial.name,
                    "epoch": trial.epochs,
                    "layer": "all",
                    "images": len(learned),
                    "top1": f"{top1:.2f}",
                }
            )
            for column, values in (("half", dict.fromkeys(gates, 0.5)), ("layer", means)):
                for name, gate in gates.items():
                    gate.fixed = values[name]
                _, fixed_top1, _, choices = self.evaluate()
                fixed[0][f"top1_{column}"] = f"{fixed_top1:.2f}"
                fixed[0][f"changed_{column}"] = int((choices != learned).sum())
            for gate in gates.values():
                gate.fixed = None
        return [row], self.curve, self.gate_rows, fixed


def train(trials, images, graphs, stop=None):
    """Make these runs side by side; all have the same epochs and number of images. stop: end after
    so many steps, to measure; returns (the trainings, seconds)."""
    runs = [Training(trial, images[trial.seed], graphs) for trial in trials]
    total = time.perf_counter()
    for epoch in range(trials[0].epochs):
        started = time.perf_counter()
        for run in runs:
            run.begin_epoch(epoch)
        finish()
        for size in runs[0].sizes[:stop]:
            for run in runs:
                if run.stream:
                    with torch.cuda.stream(run.stream):
                        run.steps[size]()
                else:
                    run.steps[size]()
        finish()
        seconds = (time.perf_counter() - started) / len(runs)
        if stop:
            return runs, seconds * len(runs)
        for run in runs:
            run.end_epoch(epoch, seconds)
        if epoch == 0:
            print(f"  first epoch: {seconds:.2f} s per run", flush=True)
    return runs, time.perf_counter() - total


def finish():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# ------------------------------------------------------------------------------------------ main


def left(part, rows, failures):
    """The trials of a part that are to be made and are not there, a seed's together, by seed;
    without those that failed twice."""
    known = {row["run"]: row for row in rows}
    return [
        t
        for t in ROUND_2[f"round2-{part}"]
        if t.name not in known and wanted(t, known) and failures.get(t.name, 0) < 2
    ]


def write(path, rows):
    """A CSV file of dictionaries, replaced as a whole."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with open(path.with_suffix(".new"), "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    path.with_suffix(".new").replace(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("archive", type=Path, help="cifar-100-python.tar.gz")
    parser.add_argument("--out", type=Path, required=True, help="folder of the CSV files")
    parser.add_argument("--known", type=Path, help="folder of the rows so far, if another")
    parser.add_argument("--commit", help="full hash of what is here; default: git is asked")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no run that lasts longer")
    parser.add_argument("--beside", type=int, default=30, help="runs side by side, at most")
    args = parser.parse_args()
    began = time.perf_counter()
    args.commit = args.commit or commit()
    md5 = hashlib.md5(args.archive.read_bytes()).hexdigest()
    data, device = read_archive(args.archive), "cuda" if torch.cuda.is_available() else "cpu"
    graphs = device == "cuda"
    torch.backends.cudnn.benchmark = True
    name = torch.cuda.get_device_name() if graphs else platform.processor()
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    tables = [read_rows((args.known or args.out) / f"{table}.csv") for table in GPU_TABLES]
    for row in tables[0]:
        of_one_commit(row, {"commit": args.commit, "data_md5": md5})
    args.out.mkdir(parents=True, exist_ok=True)
    per_step, failures = {}, {}  # measured seconds of a run's step, by width; by name of the run
    for part in args.parts:
        arms = len({t.name.rpartition("-")[0] for t in ROUND_2[f"round2-{part}"]})
        while True:
            trials = left(part, tables[0], failures)[: max(1, args.beside // arms) * arms]
            if not trials:
                break
            held_out, width, epochs = trials[0].validation, trials[0].width, trials[0].epochs
            seeds = sorted({t.seed for t in trials})
            if held_out:
                images = {seed: Images(data, held_out, seed, device) for seed in seeds}
            else:
                images = dict.fromkeys(seeds, Images(data, 0, 0, device))
            if width not in per_step:
                per_step[width] = train(trials, images, graphs, stop=20)[1] / 20 / len(trials)
                print(f"width {width}: {1000 * per_step[width]:.3f} ms a step of a run", flush=True)
            of_seed = 1.12 * per_step[width] * 391 * epochs * arms
            spare = 60 * args.minutes - (time.perf_counter() - began) - 15
            fits = int(spare / of_seed)
            if fits < 1:
                print(f"part {part}: no time for {len(trials)} more runs", flush=True)
                break
            trials = trials[: fits * arms]
            started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
            print(f"part {part}: {len(trials)} runs, {started}", flush=True)
            runs, seconds = train(trials, images, graphs)
            about = {
                "recipe": json.dumps(
                    {
                        "batch_size": BATCH,
                        "momentum": MOMENTUM,
                        "nesterov": True,
                        "weight_decay": WEIGHT_DECAY,
                        "schedule": "cosine",
                        "crop_padding": PADDING,
                        "flip": True,
                        "convolutions": "TF32" if graphs else "float32",
                    }
                ),
                "command": "python -m experiments.gpu ARCHIVE --out FOLDER",
                "data_md5": md5,
                "versions": json.dumps(versions),
                "machine": name,
                "date": started[:10],
                "commit": args.commit,
                "started": started,
            }
            for run in runs:
                if run.failed:
                    failures[run.trial.name] = failures.get(run.trial.name, 0) + 1
                    print(f"{run.trial.name}: FAILED, its loss is no number", flush=True)
                    continue
                for table, rows in zip(tables, run.rows(about)):
                    table += rows
            for table, rows in zip(GPU_TABLES, tables):
                if rows:
                    write(args.out / f"{table}.csv", rows)
            print(f"part {part}: {len(runs)} runs took {seconds:.0f} s", flush=True)
            del runs
            if graphs:
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
