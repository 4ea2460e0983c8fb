"""Lesson 1: the checkers of its exercises."""

from __future__ import annotations

import warnings

import numpy as np

from .checking import Wrong, call, checker, closed, finite, number, numbers, refuse, right, same
from .checking import whole


@checker("1.1")
def exercise_1_1(answer):
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (4, 3, 5, 6)) + rng.normal(0, 2, (5, 6))
    x[:, :, 2, 1] *= 1e-3  # a quiet pixel, in which eps shows
    scale, shift = rng.normal(size=(5, 6)), rng.normal(size=(5, 6))

    def norm(axes=(0, 1), scale=scale, shift=shift, root=lambda var: np.sqrt(var + 1e-5), ddof=0):
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True, ddof=ddof)
        return scale * (x - mean) / root(var) + shift

    y = finite(numbers(call(answer, x, scale, shift), x.shape))
    if same(y, norm()):
        return right("a batch norm does not ask what its features are: here they are pixels.")
    refuse(
        y,
        [
            (
                norm((0, 2, 3)),
                Wrong(
                    "you normalise each channel; in equation (3) pixels take the channels' place"
                ),
            ),
            (
                norm((1,)),
                Wrong("you normalise each image by itself: take the mean over the images too"),
            ),
            (
                norm((0,)),
                Wrong("you normalise each pixel of each channel by itself: the channels belong in"),
            ),
            (
                norm((1, 2, 3)),
                Wrong("you take one mean for a whole image; each pixel has a mean of its own"),
            ),
            (norm((0, 1, 2, 3)), Wrong("you take one mean for everything; each pixel has its own")),
            (
                norm(root=np.sqrt),
                Wrong("eps is missing under the root: in a quiet pixel that is a large difference"),
            ),
            (
                norm(root=lambda var: np.sqrt(var) + 1e-5),
                Wrong("eps stands beside the root; it belongs under it, added to the variance"),
            ),
            (
                norm(root=lambda var: var + 1e-5),
                Wrong("you divide by the variance; the standard deviation is its root"),
            ),
            (norm(ddof=1), Wrong("you divide by n - 1 in the variance; a batch norm divides by n")),
            (
                norm(scale=1, shift=0),
                Wrong("that is x_hat: lambda and beta are still to be applied"),
            ),
            (
                norm(scale=shift, shift=scale),
                Wrong("lambda and beta are swapped: which one scales?"),
            ),
            (norm(shift=0), Wrong("the shift beta is missing")),
            (norm(scale=1), Wrong("the scale lambda is missing")),
            (
                norm(scale=np.abs(scale)),
                Wrong("the batch norm takes lambda with its sign; magnitudes are for W only"),
            ),
        ],
    )
    raise Wrong(
        "the numbers differ from (x - mean) / sqrt(var + 1e-5) * lambda + beta, with mean and var "
        "of each pixel"
    )


@checker("1.2")
def exercise_1_2(answer):
    gamma = np.array([2.0, -1.0, 1.0, 0.0])
    kept = gamma.copy()
    # The arrays themselves, not copies: what becomes of them is the question.
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        w = numbers(call(lambda: answer(gamma)) if callable(answer) else call(answer), (4,))
    refuse(
        w,
        [
            (
                kept / kept.sum(),
                Wrong("a negative gamma gives a negative weight: magnitudes, above and below"),
            ),
            (
                np.exp(kept) / np.exp(kept).sum(),
                Wrong("that is a softmax; NAM takes each magnitude's share in the sum"),
            ),
            (
                np.abs(kept) / 2,
                Wrong("you divide by the largest magnitude; the weights have to add up to 1"),
            ),
            (kept**2 / 6, Wrong("those are shares of the squares; NAM takes the magnitudes")),
        ],
    )
    if not same(w, np.array([0.5, 0.25, 0.25, 0.0])):
        raise Wrong(
            "gamma (2, -1, 1, 0) should give (0.5, 0.25, 0.25, 0), not {got}", got=np.round(w, 4)
        )
    if not np.array_equal(gamma, kept):
        raise Wrong(
            "the weights are right, but look at gamma after the call: (2, -1, 1, 0) has become "
            "{now}",
            now=gamma,
        )
    for count in (3, 5):
        with warnings.catch_warnings(record=True) as at_zero:
            warnings.simplefilter("always")
            zero = numbers(call(answer, np.zeros(count)), (count,))
        seen += at_zero
        if not same(zero, np.full(count, 1 / count)):
            raise Wrong(
                "{count} gammas that are all 0 give {got}; let each weigh 1/{count}",
                count=count,
                got=zero,
            )
    if seen:
        raise Wrong(
            "every weight is right, but NumPy warned on the way: {said}; do not divide first and "
            "repair afterwards",
            said=seen[0].message,
        )
    small = numbers(call(answer, np.array([3e-9, -1e-9])), (2,))
    if not same(small, np.array([0.75, 0.25])):
        raise Wrong("gammas of 3e-9 and -1e-9 are small, not zero: their shares are 3/4 and 1/4")
    for other in ([1.0, -3.0, 2.0], [-3.0, -1.0], [0.0, 2.0]):
        other = np.array(other)
        got = numbers(call(answer, other), other.shape)
        if not same(got, np.abs(other) / np.abs(other).sum()):
            raise Wrong(
                "gammas of {gamma} give {got}; whether all are 0 is a question to the magnitudes",
                gamma=other,
                got=np.round(got, 4),
            )
    return right("the weights are shares, and gamma is left alone.")


@checker("1.3")
def exercise_1_3(answer):
    def gate(x_hat, channels):
        return 1 / (1 + np.exp(-x_hat / channels))

    for x_hat, least in ((4.0, 0.51), (6.0, 0.6), (2.5, 0.75), (3.0, 0.52)):
        got = number(call(answer, x_hat, least))
        logit = np.log(least / (1 - least))
        if got != int(got) and np.isclose(got, (x_hat / logit, x_hat / (4 * least - 2))).any():
            raise Wrong("there is no fraction of a channel: the largest whole C is wanted")
        if abs(got - logit) < 1e-6:
            raise Wrong("that is the logit that the gate needs; which C still reaches it?")
        got = whole(got)
        if got < 1:
            raise Wrong("a layer has at least one channel, not {got}", got=got)
        if gate(x_hat, got) < least:
            raise Wrong(
                "with C = {got} a pixel of x_hat = {x_hat:g} has a gate of {gate:.6f}, which is "
                "below {least}; take the sigmoid itself, not the straight line",
                got=got,
                x_hat=x_hat,
                gate=gate(x_hat, got),
                least=least,
            )
        if gate(x_hat, got + 1) >= least:
            raise Wrong(
                "C = {got} is not the widest: with one channel more a pixel of x_hat = {x_hat:g} "
                "has a gate of {gate:.5f}, still not below {least}",
                got=got,
                x_hat=x_hat,
                gate=gate(x_hat, got + 1),
                least=least,
            )
    return right("to reach 0.51 a pixel of x_hat = 4 needs a layer of fewer than 100 channels.")


@checker("1.4")
def exercise_1_4(answer):
    gamma, upstream = np.array([2.0, -1.0, 1.0, 0.5]), np.array([1.0, -2.0, 0.5, -3.0])

    def w(gamma):
        return np.abs(gamma) / np.abs(gamma).sum()

    jacobian = np.stack(  # [i, k]: dW_i / dgamma_k, by finite differences
        [(w(gamma + step) - w(gamma - step)) / 2e-5 for step in 1e-5 * np.eye(4)], axis=1
    )
    sign, total = np.sign(gamma), np.abs(gamma).sum()
    got = finite(numbers(call(answer, gamma, upstream), (4,)))
    if same(got, upstream @ jacobian, 1e-6):
        return right("that is what a backward pass written by hand would compute for W.")
    refuse(
        got,
        [
            (
                jacobian @ upstream,
                Wrong("the matrix is turned: for each gamma_k, add up over all the W_i it moves"),
            ),
            (
                sign * (upstream @ jacobian),
                Wrong("the signs are wrong: |gamma_k| falls where a negative gamma_k grows"),
            ),
            (
                sign * upstream / total,
                Wrong("the sum below the line changes with gamma_k too, and with it every W_i"),
            ),
            (
                total * (upstream @ jacobian),
                Wrong("a factor is missing: the larger the sum S, the less one gamma moves W"),
            ),
            (np.diag(jacobian) * upstream, Wrong("gamma_k moves every W_i, not only its own W_k")),
            (jacobian.sum(0) * upstream, Wrong("upstream belongs inside the sum over i")),
        ],
        1e-6,
    )
    raise Wrong(
        "the numbers differ from finite differences of sum(upstream * W(gamma)): move one gamma a "
        "little and see which parts of the sum move"
    )


CHANGES = {
    "times 10": lambda x: 10 * x,
    "plus 3": lambda x: x + 3,
    "times -1": lambda x: -x,
    "squared": lambda x: x**2,
    "channel 0 times 10": lambda x: x * np.array([10.0, 1, 1, 1]).reshape(1, 4, 1, 1),
    "image 0 times 10": lambda x: x * np.array([10.0, 1, 1, 1]).reshape(4, 1, 1, 1),
}


@checker("1.5")
def exercise_1_5(answer):
    closed(answer)
    if isinstance(answer, dict) or not isinstance(answer, (list, tuple, set)):
        raise Wrong("a list of names is wanted, such as ['times 10', 'squared']")
    unknown = [name for name in answer if not isinstance(name, str) or name not in CHANGES]
    if unknown:
        raise Wrong(
            "{name!r} is none of the changes; they are {names}",
            name=unknown[0],
            names=", ".join(CHANGES),
        )

    def gate(x):
        mean, var = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
        return 1 / (1 + np.exp(-(x - mean) / np.sqrt(var + 1e-5) / x.shape[1]))

    x = np.random.default_rng(0).normal(1, 2, (4, 4, 6, 6))
    moved = {name: np.abs(gate(change(x)) - gate(x)).max() for name, change in CHANGES.items()}
    too_many = [name for name in answer if moved[name] > 1e-3]
    if too_many:
        raise Wrong(
            "one of the changes in your list moves a gate by {most:.2f}: try each by itself, and "
            "look at the largest difference",
            most=max(moved[name] for name in too_many),
        )
    missing = [name for name in CHANGES if moved[name] <= 1e-3 and name not in answer]
    if missing:
        raise Wrong("right so far, but there are more that leave every gate where it was")
    return right(
        "a batch norm takes away the size and the mean of each channel, whatever they were; it "
        "keeps who stands out, and the sign."
    )
