"""Accuracy of a network on a split, with intervals; and the gamma of a trained network."""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import paddle

from .convolution import outputs
from .data import normalise, superclasses
from .resnet import ResNet


@dataclass(frozen=True)
class Evaluation:
    """What a network does on a split. Accuracies and intervals are in per cent.

    top1, top5: share of images whose class is the first, or among the first five, of the network's
    ranking. top1_interval, top5_interval: 95 % Wilson intervals (low, high).
    superclass_top1: share whose first choice lies in the right superclass.
    per_class, per_superclass: name -> accuracy, None for a class without an image in the split;
    for a superclass that of its fine classes.
    confusion: (20, 20), images of the row's superclass whose first choice lies in the column's.
    predicted: (N,), first choices; confidence: (N,), their softmax probabilities.
    """

    images: int
    top1: float
    top5: float
    top1_interval: tuple
    top5_interval: tuple
    superclass_top1: float
    per_class: dict
    per_superclass: dict
    confusion: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray

    def as_dict(self):
        """Plain values for JSON; without what is there once per image."""
        return {"images": self.images, "top1": self.top1, "top5": self.top5,
                "top1_interval": list(self.top1_interval),
                "top5_interval": list(self.top5_interval),
                "superclass_top1": self.superclass_top1,
                "per_class": self.per_class, "per_superclass": self.per_superclass,
                "confusion": {"superclasses": list(self.per_superclass),
                              "counts": self.confusion.tolist()}}

    def __str__(self):
        def interval(low_high):
            return f"(95 % interval {low_high[0]:.2f} to {low_high[1]:.2f})"

        known = {n: a for n, a in self.per_class.items() if a is not None}
        ranked = sorted(known, key=known.get)
        lines = [f"{self.images} images",
                 f"top-1 {self.top1:6.2f} % {interval(self.top1_interval)}",
                 f"top-5 {self.top5:6.2f} % {interval(self.top5_interval)}",
                 f"first choice in the right superclass {self.superclass_top1:.2f} %",
                 "best classes   " + ", ".join(f"{n} {known[n]:.0f} %" for n in ranked[:-6:-1]),
                 "worst classes  " + ", ".join(f"{n} {known[n]:.0f} %" for n in ranked[:5]),
                 "", f"{'superclass':<32}{'images':>7}{'top-1 %':>9}{'in superclass %':>17}"
                     "  most often taken for"]
        names = list(self.per_superclass)
        for row, name in enumerate(names):
            images = self.confusion[row].sum()
            if not images:
                continue
            wrong = self.confusion[row].copy()
            right, wrong[row] = wrong[row], 0
            other = f"{names[wrong.argmax()]} ({wrong.max()})" if wrong.any() else "-"
            lines.append(f"{name:<32}{images:>7}{self.per_superclass[name]:>9.1f}"
                         f"{100 * right / images:>17.1f}  {other}")
        return "\n".join(lines)


def wilson_interval(right, n, z=1.959964):
    """The 95 % Wilson score interval of a share right/n, in per cent: (low, high).

    Source: E. B. Wilson, Journal of the American Statistical Association 22 (1927).
    """
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, 100 * (centre - half)), min(100.0, 100 * (centre + half))


def predict(network, images, batch_size=256):
    """Logits of uint8 images: (N, 3, 32, 32) -> (N, classes) float32, in inference mode, with the
    normalisation that the network carries."""
    was_training = network.training
    network.eval()
    batches = (paddle.to_tensor(normalise(images[start:start + batch_size],
                                          *network.normalization))
               for start in range(0, len(images), batch_size))
    try:
        return np.concatenate([logits.numpy() for logits in outputs(
            network, batches, parallel=isinstance(network, ResNet))])
    finally:
        if was_training:
            network.train()


def evaluate(network, split, batch_size=256):
    """Evaluate a network on a split in one pass, and return an `Evaluation`.

    Raises ValueError when the network has not one logit per class or gives NaN.
    """
    logits = predict(network, split.images, batch_size)
    classes = len(split.fine_names)
    if logits.shape[1] != classes:
        raise ValueError(f"the network has {logits.shape[1]} logits but the data has {classes} "
                         f"classes: build it with num_classes={classes}")
    if np.isnan(logits).any():
        image = int(np.isnan(logits).any(1).argmax())
        raise ValueError(f"the network gives NaN for image {image}: its weights are damaged or its "
                         "training diverged")
    n = len(split)
    ranking = np.argsort(-logits, axis=1, kind="stable")[:, :5]  # (N, classes) -> (N, 5)
    predicted = ranking[:, 0]
    right = predicted == split.fine
    among_five = (ranking == split.fine[:, None]).any(1)
    odds = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    confidence = 1 / odds.sum(1)  # of the first choice, whose odds are 1

    superclass_of = superclasses(split)
    predicted_super = superclass_of[predicted]  # -1: a class of which the split has no image
    confusion = np.zeros((len(split.coarse_names),) * 2, np.int64)
    known = predicted_super >= 0
    np.add.at(confusion, (split.coarse[known], predicted_super[known]), 1)

    def by_name(names, labels):
        return {name: float(100 * right[labels == i].mean()) if (labels == i).any() else None
                for i, name in enumerate(names)}

    return Evaluation(
        images=n, top1=100 * float(right.mean()), top5=100 * float(among_five.mean()),
        top1_interval=wilson_interval(int(right.sum()), n),
        top5_interval=wilson_interval(int(among_five.sum()), n),
        superclass_top1=100 * float((predicted_super == split.coarse).mean()),
        per_class=by_name(split.fine_names, split.fine),
        per_superclass=by_name(split.coarse_names, split.coarse),
        confusion=confusion, predicted=predicted, confidence=confidence)


def gamma_table(history):
    """A text table of the gamma of every NAM layer, from a run's `gamma_history`: before training
    and after the last epoch the mean and spread (standard deviation over the channels) of |gamma|,
    and the smallest and largest weight W times C, which is 1 where all channels weigh the same."""
    lines = [f"{'layer':<34}{'channels':>9}{'|gamma| at first':>20}{'|gamma| at last':>20}"
             f"{'W * C':>18}"]
    for name, rows in history.items():
        first, last = np.abs(rows[0]), np.abs(rows[-1])
        total = last.sum()
        share = last * len(last) / total if total else np.ones(len(last))
        lines.append(f"{name:<34}{len(last):>9}{first.mean():>12.4f} +- {first.std():.3f}"
                     f"{last.mean():>12.4f} +- {last.std():.3f}"
                     f"{share.min():>9.3f} - {share.max():.3f}")
    return "\n".join(lines)
