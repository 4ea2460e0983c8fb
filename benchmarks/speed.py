"""Speed on a CPU, side by side: python -m benchmarks.speed [--out results/speed.md].

Settings that count must be made before Paddle loads, so every contender lives in a process of its
own. The contenders take turns, a few steps each, round after round: whatever else the machine does
meets them alike. A table gives medians over the rounds and, in brackets, the lowest and highest
round; a ratio is the median of the ratios within each round.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TOP_PAD_": str(2**26),
}
SETTINGS = (
    "OMP_NUM_THREADS",
    "MKL_DEBUG_CPU_TYPE",
    "NAM_EDU_CPU_TUNING",
    "NAM_EDU_CONVOLUTION",
    *KEPT_MEMORY,
)


# ------------------------------------------------------------------------- in the child process


def build_paddle(spec):
    """Functions of a Paddle contender: train(steps), infer(batches), and the rate of large matrix
    products."""
    from nam_edu.backend import import_paddle, tune_cpu

    tune_cpu()
    paddle = import_paddle()
    import numpy as np

    paddle.seed(0)
    if spec["network"] == "textbook":
        from benchmarks.textbook import textbook_resnet

        network = textbook_resnet(spec["depth"])
    else:
        from nam_edu.resnet import resnet

        network = resnet(
            spec["depth"],
            attention=spec["attention"],
            stem=spec["stem"],
            width=spec["width"],
            image_size=spec["image_size"],
        )
    optimizer = paddle.optimizer.Momentum(
        0.01, 0.9, parameters=network.parameters(), weight_decay=5e-4
    )
    rng = np.random.default_rng(0)
    shape = (spec["batch"], 3, spec["image_size"], spec["image_size"])
    x = paddle.to_tensor(rng.normal(size=shape).astype("float32"))
    y = paddle.to_tensor(rng.integers(0, 100, spec["batch"]))

    def train(steps):
        network.train()
        for _ in range(steps):
            loss = paddle.nn.functional.cross_entropy(network(x), y)
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            float(loss)

    def infer(batches):
        network.eval()
        if spec["network"] == "nam_edu":  # as `evaluation.predict` does
            from nam_edu.machinery.inference import outputs

            for logits in outputs(network, [x] * batches, parallel=True):
                float(logits[0, 0])
        else:
            with paddle.no_grad():
                for _ in range(batches):
                    float(network(x)[0, 0])

    def peak():
        from nam_edu.machinery.doctor import matrix_product_rate

        return matrix_product_rate(paddle, 2048, 0.5)

    return train, infer, peak


def build_torch(spec):
    import torch

    from benchmarks.torch_network import torch_resnet

    torch.manual_seed(0)
    network = torch_resnet(spec["depth"], stem=spec["stem"], width=spec["width"])
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=5e-4)
    x = torch.randn(spec["batch"], 3, spec["image_size"], spec["image_size"])
    if spec["network"] == "torch, channels last":
        network = network.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    if spec["network"] == "torch.compile":
        network = torch.compile(network)
    y = torch.randint(0, 100, (spec["batch"],))

    def train(steps):
        network.train()
        for _ in range(steps):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(x), y)
            loss.backward()
            optimizer.step()
            float(loss)

    def infer(batches):
        network.eval()
        with torch.inference_mode():
            for _ in range(batches):
                float(network(x)[0, 0])

    def peak():
        a, best = torch.rand(2048, 2048), float("inf")
        for _ in range(10):
            started = time.perf_counter()
            a @ a
            best = min(best, time.perf_counter() - started)
        return 2 * 2048**3 / best / 1e9

    return train, infer, peak


def serve(spec):
    """Do what the lines of standard input say, answer each with a line of JSON."""
    train, infer, peak = (build_torch if spec["network"].startswith("torch") else build_paddle)(
        spec
    )
    jobs = {"train": train, "infer": infer}
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        job, count = line.split()
        if job == "peak":
            answer = peak()
        elif job == "memory":
            answer = peak_memory()
        else:
            started = time.perf_counter()
            jobs[job](int(count))
            answer = (time.perf_counter() - started) / int(count)
        print(json.dumps(answer), flush=True)


def peak_memory():
    """The largest resident memory of this process so far, in MiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# ------------------------------------------------------------------------------- the contenders


class Contender:
    """A network in a process of its own. settings: of SETTINGS, what is set; None leaves it to
    nam_edu; {} is everything as installed. threads: another number than all the others have."""

    def __init__(
        self,
        name,
        network="nam_edu",
        *,
        settings=None,
        threads=None,
        depth=18,
        attention="nam",
        stem="imagenet",
        width=64,
        image_size=32,
        batch=128,
    ):
        self.name, self.depth = name, depth
        self.batch, self.image_size, self.stem = batch, image_size, stem
        spec = {
            "network": network,
            "depth": depth,
            "attention": attention,
            "stem": stem,
            "width": width,
            "image_size": image_size,
            "batch": batch,
        }
        environment = {k: v for k, v in os.environ.items() if k not in SETTINGS}
        if settings is None:
            environment.update(THREADS)
        else:
            environment.update(NAM_EDU_CPU_TUNING="0", **settings)
        if network.startswith("torch"):
            environment.update(OMP_NUM_THREADS=str(cores()))
        if threads:
            environment.update(OMP_NUM_THREADS=str(threads))
        self.process = subprocess.Popen(
            [
                TORCH_PYTHON if network.startswith("torch") else sys.executable,
                "-m",
                "benchmarks.speed",
                "--serve",
                json.dumps(spec),
            ],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: its process ended with {self.process.wait()}")
        return json.loads(line)

    def do(self, job, count=1):
        self.process.stdin.write(f"{job} {count}\n")
        self.process.stdin.flush()
        return self.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


THREADS = {}  # OMP_NUM_THREADS, where --threads was given


def cores():
    from nam_edu.backend import usable_cores

    return int(THREADS.get("OMP_NUM_THREADS", usable_cores()))


def settings_in_turn():
    """(name, network, settings): each adds one thing to the one before."""
    from nam_edu.backend import blas_dispatch, processor

    threads = {"OMP_NUM_THREADS": str(cores())}
    dispatch = blas_dispatch(*processor())
    mkl = {**threads, "MKL_DEBUG_CPU_TYPE": dispatch} if dispatch else threads
    yield "textbook Paddle as installed", "textbook", {}
    yield f"+ {cores()} threads", "textbook", threads
    if dispatch:
        yield f"+ MKL_DEBUG_CPU_TYPE={dispatch}", "textbook", mkl
    kept = {**mkl, **KEPT_MEMORY}
    yield "+ malloc keeps memory", "textbook", kept
    yield "+ NAM in one batch norm", "nam_edu", {**kept, "NAM_EDU_CONVOLUTION": "paddle"}
    yield "nam_edu: + whole-batch convolutions", "nam_edu", None


# A Python that has PyTorch: it need not be the one that has Paddle.
TORCH_PYTHON = os.environ.get("TORCH_PYTHON", sys.executable)


@functools.cache
def torch_version():
    """Of TORCH_PYTHON, or None where it has none."""
    ask = "import importlib.metadata as m; print(m.version('torch'))"
    done = subprocess.run([TORCH_PYTHON, "-c", ask], capture_output=True, text=True)
    return done.stdout.strip() or None


def alternate(contenders, job, rounds, seconds=1.0):
    """{contender: seconds per step in each round}; a turn is as many steps as fit in `seconds`."""
    counts = {}
    for c in contenders:
        c.do(job)  # the first step builds tables and fills caches
        counts[c] = max(1, round(seconds / c.do(job)))
        if job == "infer":  # batches that run side by side need company to show it
            counts[c] = 2 * max(2, round(seconds / c.do(job, counts[c]) / 2))
    times = {c: [] for c in contenders}
    for _ in range(rounds):
        for c in contenders:
            c.do(job, -(-counts[c] // 3))  # not timed: threads of the one before may still spin
            times[c].append(c.do(job, counts[c]))
    return times


# ----------------------------------------------------------------------------------- the tables


def multiply_adds(depth, stem, image_size):
    """(of a forward pass, of a forward and backward pass) of one image in the convolutions and the
    linear layer, as the plain algorithm does them. The images need no gradient."""
    import paddle

    from nam_edu.resnet import resnet

    network, counts = resnet(depth, attention="none", stem=stem, image_size=image_size), []

    def count(layer, _, out):
        per_output = layer.weight.shape[1] * layer.weight.shape[2] * layer.weight.shape[3]
        counts.append(per_output * out.shape[1] * out.shape[2] * out.shape[3])

    for layer in network.sublayers():
        if isinstance(layer, paddle.nn.Conv2D):
            layer.register_forward_post_hook(count)
    network.eval()
    network(paddle.zeros([1, 3, image_size, image_size]))
    forward = sum(counts) + network.fc.weight.shape[0] * network.fc.weight.shape[1]
    return forward, 3 * forward - counts[0]


def middle(values, digits=1):
    """Median [lowest to highest] as text."""
    return (
        f"{statistics.median(values):.{digits}f} "
        f"[{min(values):.{digits}f} to {max(values):.{digits}f}]"
    )


def ratio(slow, fast):
    """How many times faster `fast` is: the median of the rounds' ratios."""
    return statistics.median(s / f for s, f in zip(slow, fast))


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def steps(rounds, depths, stem="imagenet", ends=False):
    """Training step and inference of every contender at each depth; ends: of Paddle's only the
    first and the last."""
    text = []
    for depth in depths:
        paddles = list(settings_in_turn())
        contenders = [
            Contender(name, network, settings=settings, depth=depth, stem=stem)
            for name, network, settings in (paddles[:1] + paddles[-1:] if ends else paddles)
            if not (stem == "cifar" and network == "textbook")
        ]
        if torch_version():
            contenders.append(Contender("PyTorch", "torch", depth=depth, stem=stem))
        ours = next(c for c in contenders if c.name.startswith("nam_edu"))
        forward, both = multiply_adds(depth, stem, 32)
        training = alternate(contenders, "train", rounds)
        memory = {c: c.do("memory") for c in contenders}
        inference = alternate(contenders, "infer", rounds)
        peaks = [ours.do("peak") for _ in range(3)]
        torch_peak = contenders[-1].do("peak") if torch_version() else None
        for c in contenders:
            c.close()
        rows = []
        for c in contenders:
            speed = [c.batch / s for s in training[c]]
            gain = ratio(training[contenders[0]], training[c])
            rows.append(
                [
                    c.name,
                    middle(speed),
                    f"{gain:.1f}x",
                    f"{ratio(training[c], training[ours]):.2f}x",
                    f"{100 * 2 * both * statistics.median(speed) / max(peaks) / 1e9:.0f} %",
                    middle([c.batch / s for s in inference[c]], 0),
                    f"{ratio(inference[c], inference[ours]):.2f}x",
                    f"{memory[c]:.0f} MiB",
                ]
            )
        text += [
            f"### ResNet-{depth}-NAM, {stem} stem, batch 128, 32x32",
            "",
            table(
                [
                    "contender",
                    "training, images/s",
                    f"against {contenders[0].name}",
                    "nam_edu is faster by",
                    "of the matrix-product peak",
                    "inference, images/s",
                    "nam_edu is faster by",
                    "peak memory of training",
                ],
                rows,
            ),
            "",
            f"Peak of float32 matrix products in Paddle: {max(peaks):.0f} GFLOP/s"
            + (f"; in PyTorch: {torch_peak:.0f} GFLOP/s" if torch_peak else "")
            + f". One image: {forward / 1e6:.1f} million multiply-adds forward, {both / 1e6:.1f} "
            "million forward and backward, counted as the plain algorithm does them.",
            "",
        ]
    return "\n".join(text)


# What a learner or a reader of the paper trains: depth, stem, width, side of the images, batch.
SHAPES = (
    ("recipe `quick`, lessons", 18, "imagenet", 16, 32, 128),
    ("batch 64", 18, "imagenet", 16, 32, 64),
    ("batch 256", 18, "imagenet", 16, 32, 256),
    ("small networks of the lessons", 18, "imagenet", 8, 32, 128),
    ("lesson 4, evidence", 18, "imagenet", 32, 32, 128),
    ("recipe `shipped`", 18, "cifar", 12, 32, 128),
    ("", 18, "cifar", 32, 32, 128),
    ("stem of `official`", 18, "cifar", 64, 32, 128),
    ("", 18, "imagenet", 64, 32, 128),
    ("", 50, "imagenet", 64, 32, 128),
    ("recipe `official`", 50, "cifar", 64, 32, 32),
    ("", 18, "imagenet", 64, 64, 32),
    ("", 18, "imagenet", 64, 224, 32),
)
AGAINST = {
    "torch": "PyTorch eager",
    "torch, channels last": "PyTorch channels_last",
    "torch.compile": "torch.compile",
}


def shapes(rounds, numbers, compiled=True):
    """nam_edu and PyTorch, training and inference, on every shape (or those of these numbers)."""
    rows = []
    for what, depth, stem, width, size, batch in (SHAPES[i] for i in numbers or range(len(SHAPES))):
        how = {"depth": depth, "stem": stem, "width": width, "image_size": size, "batch": batch}
        ours = Contender("nam_edu", "nam_edu", **how)
        others = [
            Contender(name, network, **how)
            for network, name in AGAINST.items()
            if compiled or network != "torch.compile"
        ]
        name = f"ResNet-{depth}, {stem} stem, width {width}, {size}x{size}, batch {batch}"
        for job in ("train", "infer"):
            times = alternate([ours, *others], job, rounds, seconds=0.7)
            eager = [c for c in others if c.name != "torch.compile"]
            best = min(eager, key=lambda c: statistics.median(times[c]))
            rates = [f"{batch / statistics.median(times[c]):.0f}" for c in (ours, *others)]
            against = [t / u for t, u in zip(times[best], times[ours])]
            rows.append(
                [
                    f"{name} ({what})" if what else name,
                    "training" if job == "train" else "inference",
                    *rates,
                    f"{middle(against, 2)}",
                ]
            )
            print("|", *rows[-1], sep=" | ", flush=True)
        for c in (ours, *others):
            c.close()
    header = ["", "", "nam_edu", *(c.name for c in others), "nam_edu against the better eager one"]
    return "\n".join(["### Every shape, images/s", "", table(header, rows), ""])


def threads(rounds, numbers):
    """How many times faster all threads are than one, on every shape (or those of these numbers),
    nam_edu and PyTorch, taking turns."""
    rows = []
    for what, depth, stem, width, size, batch in (SHAPES[i] for i in numbers or range(len(SHAPES))):
        how = {"depth": depth, "stem": stem, "width": width, "image_size": size, "batch": batch}
        kinds = ["nam_edu"] + (["torch", "torch, channels last"] if torch_version() else [])
        contenders = {
            (kind, count): Contender(f"{kind}, {count}", kind, threads=count, **how)
            for kind in kinds
            for count in (1, cores())
        }
        name = f"ResNet-{depth}, {stem} stem, width {width}, {size}x{size}, batch {batch}"
        rows.append([f"{name} ({what})" if what else name])
        for job in ("train", "infer"):
            times = alternate(list(contenders.values()), job, rounds, seconds=0.7)
            for kind in kinds:
                one, all_ = (times[contenders[kind, count]] for count in (1, cores()))
                rows[-1].append(middle([a / b for a, b in zip(one, all_)], 2))
        for c in contenders.values():
            c.close()
        print("|", *rows[-1], sep=" | ", flush=True)
    titles = {"torch": "PyTorch eager", "torch, channels last": "PyTorch channels_last"}
    header = [f"{titles.get(k, k)}, {job}" for job in ("training", "inference") for k in kinds]
    title = f"### {cores()} threads against one: times faster"
    return "\n".join([title, "", table(["", *header], rows), ""])


def attentions(rounds, names=("none", "half", "nam", "nam-spatial", "se", "cbam")):
    """The cost of attention in a ResNet-50 training step, and of a layer alone."""
    contenders = [Contender(name, depth=50, attention=name) for name in names]
    training = alternate(contenders, "train", rounds)
    for c in contenders:
        c.close()
    base = training[contenders[0]]
    rows = [
        [
            c.name,
            middle([c.batch / s for s in training[c]]),
            f"{100 * (statistics.median(t / b for t, b in zip(training[c], base)) - 1):+.1f} %",
        ]
        for c in contenders
    ]
    return "\n".join(
        [
            "### Attention in a ResNet-50 training step, batch 128, 32x32",
            "",
            table(["attention", "training, images/s", "time against none"], rows),
            "",
            layers_alone(rounds),
            "",
        ]
    )


def layers_alone(rounds):
    """Forward and backward of one layer on a map of the first stage of ResNet-50."""
    import paddle

    from benchmarks.textbook import ChannelAttention
    from nam_edu.baselines import build_attention

    shape = [128, 256, 8, 8]
    layers = {
        name: build_attention(name, 256, (8, 8))
        for name in ("half", "nam", "nam-spatial", "se", "cbam", "eca", "simam")
    }
    layers["textbook NAM"] = ChannelAttention(256)
    x, grad = paddle.randn(shape), paddle.randn(shape)
    x.stop_gradient = False
    times = {name: [] for name in layers}
    for _ in range(rounds + 1):
        for name, layer in layers.items():
            started = time.perf_counter()
            for _ in range(5):
                x.clear_grad()
                layer(x).backward(grad)
            times[name].append((time.perf_counter() - started) / 5)
    rows = [[name, middle([1000 * t for t in values[1:]])] for name, values in times.items()]
    return table(["one layer, (128, 256, 8, 8)", "forward and backward, ms"], rows)


def pipeline(rounds, batch=128, batches=20):
    """Images per second of processor time, from the data set to the batch that a network takes:
    the tutorial's pipeline of one PIL image at a time, and whole batches in NumPy."""
    import random

    import numpy as np

    import paddle
    import paddle.vision.transforms as T
    from PIL import Image

    from nam_edu.augmentation import Augmentation
    from nam_edu.data import CIFAR100_MEAN, CIFAR100_STD
    from nam_edu.training import Batches

    split = load_split(batch * batches)

    class OneByOne(paddle.io.Dataset):
        """What paddle.vision's Cifar100 does with a transform: a PIL image for every row."""

        def __len__(self):
            return len(split)

        def __getitem__(self, row):
            picture = Image.fromarray(split.images[row].transpose(1, 2, 0))
            return transform(picture), split.fine[row]

    def sometimes(change):
        return lambda image: change(image) if random.random() < 0.5 else image

    def to_array(image):
        return (np.transpose(np.array(image), [2, 0, 1]) / 255.0).astype("float32")

    transform = T.Compose(
        [
            T.RandomCrop(32, padding=4),
            sometimes(T.BrightnessTransform(0.1)),
            sometimes(T.ContrastTransform(0.1)),
            T.RandomHorizontalFlip(),
            T.RandomRotation(15),
            to_array,
            T.Normalize(CIFAR100_MEAN, CIFAR100_STD),
        ]
    )
    theirs = paddle.io.DataLoader(OneByOne(), batch_size=batch, shuffle=True, num_workers=0)
    ours = Batches(
        split, batch, (CIFAR100_MEAN, CIFAR100_STD), Augmentation(4, 0.1, 0.1, True, 15.0)
    )
    speed = {"one PIL image at a time, paddle.io.DataLoader": [], "nam_edu, whole batches": []}
    for _ in range(rounds + 1):
        for values, loader in zip(speed.values(), (theirs, ours)):
            started = time.process_time()
            seen = sum(len(labels) for _, labels in loader)
            values.append(seen / (time.process_time() - started))
    a, b = (values[1:] for values in speed.values())
    factor = statistics.median(y / x for x, y in zip(a, b))
    rows = [[name, middle(values[1:], 0)] for name, values in speed.items()]
    return "\n".join(
        [
            "### The tutorial's augmentation and normalisation, one core",
            "",
            table(["pipeline", "images/s of processor time"], rows),
            "",
            f"Ratio {factor:.1f}x.",
            "",
        ]
    )


def load_split(images):
    """So many generated images."""
    from nam_edu.data import Split
    from nam_edu.shapes100 import coarse_names, draw, fine_names

    return Split(*draw(images), tuple(fine_names()), tuple(coarse_names()))


def start_up(rounds):
    """Seconds until a new Python has imported."""
    codes = {
        "python alone": "pass",
        "import nam_edu": "import nam_edu",
        "nam_edu.setup()": "import nam_edu; nam_edu.setup()",
        "import paddle": "import paddle",
    }
    times = {name: [] for name in codes}
    for _ in range(rounds + 1):
        for name, code in codes.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
            times[name].append(time.perf_counter() - started)
    return "\n".join(
        [
            "### Start-up",
            "",
            table(["a new Python", "seconds"], [[n, middle(t[1:], 2)] for n, t in times.items()]),
            "",
        ]
    )


def growth(rounds):
    """Training time by batch, depth and image size, with PyTorch beside it where there is one."""
    text = []
    for title, changes in (
        ("batch (ResNet-18, 32x32)", [{"batch": b} for b in (32, 64, 128, 256, 512)]),
        ("depth (batch 32, 32x32)", [{"depth": d, "batch": 32} for d in (18, 34, 50, 101, 152)]),
        (
            "image size (ResNet-18, batch 32)",
            [{"image_size": s, "batch": 32} for s in (32, 64, 128, 224)],
        ),
    ):
        rows = []
        for change in changes:
            contenders = [Contender("nam_edu", **change)]
            if torch_version():
                contenders.append(Contender("PyTorch", "torch", **change))
            times = alternate(contenders, "train", rounds)
            for c in contenders:
                c.close()
            value = next(change[k] for k in ("image_size", "depth", "batch") if k in change)
            ours = times[contenders[0]]
            row = [
                value,
                f"{1000 * statistics.median(ours):.0f}",
                middle([contenders[0].batch / t for t in ours]),
            ]
            if torch_version():
                theirs = times[contenders[1]]
                row += [
                    middle([contenders[1].batch / t for t in theirs]),
                    f"{ratio(theirs, ours):.2f}x",
                ]
            rows.append(row)
        header = [title, "ms per step", "nam_edu, images/s"]
        if torch_version():
            header += ["PyTorch, images/s", "nam_edu is faster by"]
        text += [f"### Training step by {title}", "", table(header, rows), ""]
    return "\n".join(text)


def commit():
    ask = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(ask, capture_output=True, text=True).stdout.strip() or "unknown"


def provenance(module, arguments):
    import nam_edu
    from nam_edu.machinery.doctor import installed
    from nam_edu.training import machine

    versions = ", ".join(
        f"{name} {installed(name)}"
        for name in ("paddlepaddle", "paddlepaddle-gpu", "numpy")
        if installed(name)
    )
    if torch_version():
        versions += f", torch {torch_version()}"
    return (
        f"`{' '.join(['python -m', module, *arguments])}`"
        + f", {time.strftime('%Y-%m-%d')}, {machine()}, {cores()} threads, Python "
        f"{platform.python_version()}, {versions}, nam_edu {nam_edu.__version__}, "
        f"commit {commit()}. Median [lowest to highest round]."
    )


PARTS = ("shapes", "threads", "steps", "attention", "pipeline", "start-up", "growth", "cifar-stem")


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shapes", type=int, nargs="*", help="numbers in SHAPES; default: all")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--ends", action="store_true", help="steps: of Paddle first and last only")
    parser.add_argument("--depths", type=int, nargs="*", default=[18, 50])
    parser.add_argument("--threads", type=int, help="default: as many as there are cores")
    parser.add_argument("--out", help="write the tables to this file as well")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(json.loads(args.serve))
        return
    if args.threads:
        THREADS["OMP_NUM_THREADS"] = str(args.threads)
        os.environ["OMP_NUM_THREADS"] = str(args.threads)
    from nam_edu.backend import import_paddle, tune_cpu

    tune_cpu()
    import_paddle()
    parts = {
        "shapes": lambda: shapes(args.rounds, args.shapes, not args.no_compile),
        "threads": lambda: threads(args.rounds, args.shapes),
        "steps": lambda: steps(args.rounds, args.depths, ends=args.ends),
        "attention": lambda: attentions(args.rounds),
        "pipeline": lambda: pipeline(args.rounds),
        "start-up": lambda: start_up(args.rounds),
        "growth": lambda: growth(max(3, args.rounds // 2)),
        "cifar-stem": lambda: steps(max(3, args.rounds // 2), [18], "cifar"),
    }
    text = provenance("benchmarks.speed", sys.argv[1:]) + "\n"
    print(text)
    for part in args.parts:
        result = parts[part]()
        print(result, flush=True)
        text += "\n" + result
    if args.out:
        from nam_edu.machinery.files import write_text

        write_text(args.out, text)


if __name__ == "__main__":
    main()
