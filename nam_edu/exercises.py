"""All lessons: the checkers of the exercises; check("1.1", your_answer) says what is wrong with an
answer, and never raises."""

from __future__ import annotations

import numpy as np

CHECKERS = {}
NOT_SOLVED = "not solved yet: put your answer in place of the dots"


class Wrong(Exception):
    """What is wrong with an answer, in words that help."""


def check(number, answer):
    """Check an answer to exercise `number` ("1.1"), print what is wrong or that it is right, and
    return True or False."""
    if number not in CHECKERS:
        print(f"There is no exercise {number!r}; there are {', '.join(CHECKERS)}.")
        return False
    try:
        praise = CHECKERS[number](answer)
    except Wrong as wrong:
        print(f"✗ {number}: {wrong}")
        return False
    except Exception as error:  # raised by the answer; a learner wants the sentence, not the trace
        print(f"✗ {number}: your code raised {type(error).__name__}: {error}")
        return False
    print(f"✓ {number}: {praise}")
    return True


def _checker(number):
    def register(function):
        CHECKERS[number] = function
        return function

    return register


def _open(answer):
    """Whether an answer, or a part of it, was left as the dots of the stub."""
    if isinstance(answer, (list, tuple)):
        return any(_open(part) for part in answer)
    return answer is None or answer is Ellipsis


def _call(answer, *inputs):
    """answer(*inputs), which must be something."""
    if _open(answer):
        raise Wrong(NOT_SOLVED)
    if not callable(answer):
        raise Wrong(
            f"a function is wanted, not {type(answer).__name__}: give its name without calling it"
        )
    result = answer(*inputs)
    if _open(result):
        raise Wrong(NOT_SOLVED)
    return result


def _ask(answer, *inputs, shape=None):
    """answer(*inputs) as a float64 array; `shape` is the shape it should have."""
    result = answer(*inputs) if callable(answer) else answer
    if _open(result):
        raise Wrong(NOT_SOLVED)
    try:
        if hasattr(result, "numpy"):
            result = result.numpy()
        result = np.asarray(result, np.float64)
    except (TypeError, ValueError):
        raise Wrong(f"a number or an array is wanted, not {type(result).__name__}") from None
    if shape is not None and result.shape != tuple(shape):
        raise Wrong(f"the result has shape {result.shape}, it should have {tuple(shape)}")
    return result


def _pair(answer, *inputs, shape):
    """Two arrays that an answer returns, as one (2, ...)."""
    got = _call(answer, *inputs)
    try:
        parts = list(got)
    except TypeError:
        parts = []
    if len(parts) != 2 or isinstance(got, (str, dict, set)):
        raise Wrong("two arrays are wanted: return first, second")
    return np.stack([_ask(part, shape=shape) for part in parts])


def _finite(values):
    """The values, none of which may be NaN or infinite."""
    if not np.isfinite(values).all():
        raise Wrong(f"a finite number is wanted, not {values}")
    return values


def _same(result, right, tolerance=1e-5):
    return result.shape == right.shape and np.allclose(
        result, right, rtol=tolerance, atol=tolerance
    )


# ------------------------------------------------------------------------------------- 1, theory


def _x_hat(x, axes=(0, 2, 3), eps=1e-5):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


@_checker("1.1")
def exercise_1_1(answer):
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (4, 3, 5, 6))
    x[:, 1] *= 1e-3  # a quiet channel, in which eps shows
    gamma, beta = np.array([2.0, -1.0, 0.5]), np.array([0.0, 1.0, -1.0])
    scale, shift = gamma.reshape(1, 3, 1, 1), beta.reshape(1, 3, 1, 1)
    y = _ask(answer, x, gamma, beta, shape=x.shape)
    if _same(y, scale * _x_hat(x) + shift):
        return "each channel has mean beta and standard deviation |gamma|."
    for axes, what in (
        ((2, 3), "each image by itself: take the mean over the images too"),
        ((1, 2, 3), "each image over its channels: that is a layer norm"),
        ((0,), "each pixel of each channel by itself"),
    ):
        if _same(y, scale * _x_hat(x, axes) + shift):
            raise Wrong(f"you normalise {what} (axes 0, 2, 3 belong together)")
    if _same(y, scale * _x_hat(x, eps=0.0) + shift):
        raise Wrong("eps is missing under the root: in a quiet channel that is a large difference")
    if _same(y, _x_hat(x)):
        raise Wrong("that is x_hat: gamma and beta are still to be applied")
    raise Wrong(
        "the numbers differ from (x - mean) / sqrt(var + 1e-5) * gamma + beta, with mean "
        "and var of each channel"
    )


@_checker("1.2")
def exercise_1_2(answer):
    gamma = np.array([2.0, -1.0, 1.0, 0.0])
    w = _ask(answer, gamma, shape=(4,))
    if _same(w, gamma / gamma.sum()):
        raise Wrong("a negative gamma gives a negative weight: take magnitudes, above and below")
    if _same(w, np.exp(gamma) / np.exp(gamma).sum()):
        raise Wrong("that is a softmax; NAM takes each magnitude's share in the sum")
    if _same(w, np.abs(gamma) / np.abs(gamma).max()):
        raise Wrong("you divide by the largest magnitude; divide by the sum of them")
    if not _same(w, np.array([0.5, 0.25, 0.25, 0.0])):
        raise Wrong(f"gamma (2, -1, 1, 0) should give (0.5, 0.25, 0.25, 0), not {np.round(w, 4)}")
    with np.errstate(all="ignore"):
        zero = _ask(answer, np.zeros(4), shape=(4,))
    if not _same(zero, np.full(4, 0.25)):
        raise Wrong(f"four zeros give {zero}; where every gamma is zero let each weigh 1/4")
    return "the weights are shares: they add up to 1."


@_checker("1.3")
def exercise_1_3(answer):
    for channels in (4, 64, 2048):
        got = float(_ask(answer, 4.0, channels, shape=()))
        right = 1 / (1 + np.exp(-4.0 / channels))
        if abs(got - right) < 1e-6:
            continue
        if abs(got - 1 / (1 + np.exp(-4.0))) < 1e-6:
            raise Wrong("W is missing: with all gammas equal each of C channels weighs 1/C")
        if abs(got - (0.5 + 4.0 / (4 * channels))) < 1e-6:
            raise Wrong(
                f"that is the straight line 1/2 + x_hat/(4C); for C = {channels} take the "
                "sigmoid itself"
            )
        if abs(got - 4.0 / channels) < 1e-6:
            raise Wrong("that is the logit; the gate is its sigmoid")
        raise Wrong(f"x_hat = 4 and C = {channels} should give {right:.6f}, not {got:.6f}")
    return "in a wide layer even an extreme pixel moves the gate by less than a thousandth."


@_checker("1.4")
def exercise_1_4(answer):
    gamma = np.array([2.0, -1.0, 1.0, 0.5])
    total, w = np.abs(gamma).sum(), np.abs(gamma) / np.abs(gamma).sum()
    right = (np.eye(4) - w[:, None]) * np.sign(gamma) / total
    got = _ask(answer, gamma, shape=(4, 4))
    if _same(got, right):
        return "every row and column agrees with finite differences."
    if _same(got, right.T):
        raise Wrong("rows and columns are swapped: entry [i, k] is dW_i / dgamma_k")
    if _same(got, (np.eye(4) - w[:, None]) / total):
        raise Wrong("the sign is missing: |gamma_k| grows by sign(gamma_k) times the step")
    if _same(got, np.diag(np.sign(gamma)) / total):
        raise Wrong("the sum below changes with gamma_k too: every W_i depends on every gamma_k")
    raise Wrong("the numbers differ from finite differences of W; start with the quotient rule")


# -------------------------------------------------------------------------------------- 2, layer


def _paddle():
    import paddle  # late: `check` itself needs NumPy only

    return paddle


@_checker("2.1")
def exercise_2_1(answer):
    paddle = _paddle()
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, (4, 3, 5, 6))
    gamma, beta = np.array([2.0, -1.0, 1.0]), np.array([0.5, 1.0, -1.0])
    got = _ask(
        answer, *(paddle.to_tensor(v.astype("float32")) for v in (x, gamma, beta)), shape=x.shape
    )
    w = np.abs(gamma) / np.abs(gamma).sum()

    def logits(scale, shift):
        return scale.reshape(1, 3, 1, 1) * _x_hat(x) + shift.reshape(1, 3, 1, 1)

    if _same(got, logits(w * gamma, w * beta), 1e-4):
        return "one call, no transposes."
    if _same(got, logits(w * gamma, beta), 1e-4):
        raise Wrong("the shift has to be multiplied by W too: W (gamma x_hat + beta)")
    if _same(got, logits(w, beta), 1e-4) or _same(got, logits(w, w * beta), 1e-4):
        raise Wrong("gamma itself is missing in the scale: it is W times gamma")
    if _same(got, logits(gamma, beta), 1e-4):
        raise Wrong("that is the batch norm without W")
    if _same(
        got,
        (gamma * w).reshape(1, 3, 1, 1) * x / np.sqrt(1 + 1e-5) + (w * beta).reshape(1, 3, 1, 1),
        1e-4,
    ):
        raise Wrong("the running statistics were used: say training=True")
    raise Wrong("the numbers differ from W * BN(x); compare with 2.3")


@_checker("2.2")
def exercise_2_2(answer):
    x = np.arange(2 * 3 * 4 * 5, dtype=np.float64).reshape(2, 3, 4, 5)
    got = _ask(answer, x, shape=(2, 20, 3))
    if _same(got, x.reshape(2, 3, 20).transpose(0, 2, 1)):
        return "each row holds the channels of one pixel."
    if _same(got, x.reshape(2, 20, 3)):
        raise Wrong(
            "a reshape alone does not move the channels to the end: it cuts the same "
            "numbers into other rows; transpose too"
        )
    if _same(got, x.transpose(0, 3, 2, 1).reshape(2, 20, 3)):
        raise Wrong("your rows go down the columns: row h*W + w, so the width has to run fastest")
    raise Wrong("row h*W + w should hold x[n, :, h, w]")


@_checker("2.3")
def exercise_2_3(answer):
    rng = np.random.default_rng(0)
    batches = [rng.normal(i, 1 + i, (2, 3, 2, 2)) for i in range(3)]

    def after(keep, ddof=0):
        mean, var = np.zeros(3), np.ones(3)
        for batch in batches:
            mean = keep * mean + (1 - keep) * batch.mean((0, 2, 3))
            var = keep * var + (1 - keep) * batch.var((0, 2, 3), ddof=ddof)
        return np.stack([mean, var])

    got = _pair(answer, batches, shape=(3,))
    if _same(got, after(0.9)):
        return "and Paddle's layer keeps the same numbers."
    if _same(got, after(0.1)):
        raise Wrong("the factors are swapped: Paddle's momentum 0.9 weighs the old value")
    if _same(got, after(0.9, ddof=1)):
        raise Wrong("Paddle's running variance divides by n, not by n - 1")
    if _same(
        got,
        np.stack(
            [
                np.mean([b.mean((0, 2, 3)) for b in batches], 0),
                np.mean([b.var((0, 2, 3)) for b in batches], 0),
            ]
        ),
    ):
        raise Wrong(
            "that is the mean over the batches; the running average forgets slowly, one "
            "batch after the other"
        )
    raise Wrong("start with mean 0 and variance 1, then for each batch 0.9 * old + 0.1 * new")


@_checker("2.4")
def exercise_2_4(answer):
    paddle = _paddle()
    from .attention import ChannelNAM

    rng = np.random.default_rng(0)
    x, coef = rng.normal(1, 2, (2, 4, 3, 5, 6)).astype("float32")
    gamma = np.array([2.0, -1.0, 1.0], "float32")

    def run(layer):
        layer.bn.weight.set_value(gamma)
        out = layer(paddle.to_tensor(x))
        _ask(out, shape=x.shape)
        (out * paddle.to_tensor(coef)).sum().backward()
        grad = layer.bn.weight.grad
        return out.numpy(), None if grad is None else grad.numpy()

    right, right_grad = run(ChannelNAM(3, detach_weights=True))
    flows, flows_grad = run(ChannelNAM(3))
    layer = _call(answer, 3)
    if not isinstance(getattr(layer, "bn", None), paddle.nn.BatchNorm2D):
        raise Wrong("the layer needs a batch norm under the name .bn")
    got, grad = run(layer)
    if not _same(got, right, 1e-4):
        raise Wrong("the values differ from sigmoid(W * BN(x)) * x")
    if grad is None or not np.any(grad):
        raise Wrong(
            "no gradient reaches gamma at all: detach W only, not the gamma in the batch norm"
        )
    if _same(grad, flows_grad, 1e-3) and not _same(grad, right_grad, 1e-3):
        raise Wrong("the gradient still flows through W: detach it")
    if not _same(grad, right_grad, 1e-3):
        raise Wrong(
            "the gradient of gamma differs from the authors': W is a constant, the gamma "
            "in the batch norm is not"
        )
    return "the same gate, another gradient."


# ------------------------------------------------------------------------------------ 3, network


@_checker("3.1")
def exercise_3_1(answer):
    def sides(image, stem, halve=lambda s: (s + 1) // 2, pool=True):
        side = image
        if stem == "imagenet":
            side = halve(halve(side)) if pool else halve(side)
        return [side, halve(side), halve(halve(side)), halve(halve(halve(side)))]

    for image, stem in ((32, "cifar"), (32, "imagenet"), (224, "imagenet"), (28, "cifar")):
        got = _ask(answer, image, stem, shape=(4,)).tolist()
        right = sides(image, stem)
        if got == right:
            continue
        if got == sides(image, stem, pool=False):
            raise Wrong("the 7x7 stem halves twice: the convolution and the max-pool")
        if got == sides(image, stem, halve=lambda s: s // 2):
            raise Wrong(f"an odd side rounds up: of {image} pixels and stem {stem!r} come {right}")
        if got == [s // 2 for s in right] or got == [-(-s // 2) for s in right]:
            raise Wrong("the first stage does not halve the map: the strides are 1, 2, 2, 2")
        raise Wrong(f"{image} pixels and stem {stem!r} give {right}, not {got}")
    return "that is why a 32x32 image leaves one pixel behind the 7x7 stem."


@_checker("3.2")
def exercise_3_2(answer):
    channels = 3 * 256 + 4 * 512 + 23 * 1024 + 3 * 2048
    got = int(_finite(_ask(answer, shape=())))
    if got == 2 * channels:
        return "beside more than 42 million in the rest of the network."
    if got == 4 * channels:
        raise Wrong("you count the running statistics too: they are kept, not trained")
    if got == channels:
        raise Wrong("each channel has a gamma and a beta")
    if got in (channels // 2, channels // 4):
        raise Wrong("a bottleneck block ends with four times its width: 256, 512, 1024, 2048")
    if got == 2 * (256 + 512 + 1024 + 2048):
        raise Wrong("every block has a layer of its own: the stages have 3, 4, 23 and 3")
    raise Wrong(f"not {got:,}: two values per channel, for every block of the four stages")


@_checker("3.3")
def exercise_3_3(answer):
    paddle = _paddle()
    from .attention import NAM
    from .resnet import resnet18

    first, second = _call(answer, 8, (4, 4)), _call(answer, 8, (4, 4))
    if isinstance(first, type):
        raise Wrong(
            f"you return the class {first.__name__}: a layer is wanted, built with the "
            "number of channels"
        )
    if first is second and isinstance(first, NAM):
        raise Wrong("the same layer comes back twice: every block needs one of its own")
    small = answer(8, (1, 1))
    if isinstance(small, NAM):
        raise Wrong("on a map of 1x1 pixels there should be no NAM")
    if small is None:
        raise Wrong("where there is no attention return nn.Identity(), which changes nothing")
    if not isinstance(first, NAM):
        raise Wrong("on a map of 4x4 pixels there should be a NAM")
    network = resnet18(attention=answer, width=4)
    layers = sum(isinstance(layer, NAM) for layer in network.sublayers())
    if layers != 6:
        raise Wrong(
            f"a ResNet-18 for 32x32 images gets {layers} NAM layers, it should get 6: its "
            "last stage has maps of 1x1"
        )
    _ask(network(paddle.zeros([2, 3, 32, 32])), shape=(2, 100))
    return "six NAM layers, and none in the last stage."


@_checker("3.4")
def exercise_3_4(answer):
    paddle = _paddle()
    F = paddle.nn.functional
    from .resnet import BasicBlock

    paddle.seed(0)
    block = BasicBlock(4, 8, 2, "nam", (3, 3))
    block.eval()
    x = paddle.randn([2, 4, 6, 6])
    with paddle.no_grad():
        got = _ask(answer, block, x, shape=(2, 8, 3, 3))
        branch = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
        shortcut = block.downsample(x)
        known = {
            "right": F.relu(block.attention(branch) + shortcut),
            "NAM stands after the addition: there it would hold back the shortcut too": F.relu(
                block.attention(branch + shortcut)
            ),
            "NAM stands last: it belongs before the addition": block.attention(
                F.relu(branch + shortcut)
            ),
            "the attention is missing": F.relu(branch + shortcut),
            "the last relu, after the addition, is missing": block.attention(branch) + shortcut,
            "the shortcut is missing": F.relu(block.attention(branch)),
        }
    for what, values in known.items():
        if _same(got, values.numpy().astype(np.float64)):
            if what == "right":
                return "convolve, convolve, attend, add."
            raise Wrong(what)
    raise Wrong(
        "the numbers differ from relu(attention(bn2(conv2(relu(bn1(conv1(x)))))) + downsample(x))"
    )


# ----------------------------------------------------------------------------------- 4, training


@_checker("4.1")
def exercise_4_1(answer):
    rng = np.random.default_rng(0)
    images = (rng.normal(size=(6, 3, 8, 8)) * 20 + rng.integers(60, 190, (6, 3, 1, 1))).clip(0, 255)
    images = images.astype(np.uint8)
    values = images / 255
    right = np.stack([values.mean((0, 2, 3)), values.std((0, 2, 3))])
    got = _pair(answer, images, shape=(3,))
    if _same(got, right):
        return "one mean and one standard deviation for each colour."
    if _same(got, 255 * right):
        raise Wrong("scale the pixels to 0-1 first: divide by 255")
    if _same(got, np.stack([right[0], values.std((2, 3)).mean(0)])):
        raise Wrong(
            "that is the standard deviation within each image, averaged; take it over all "
            "pixels of all images at once"
        )
    if _same(got[0], right[0]) and _same(got[1], right[1] ** 2):
        raise Wrong("the second is the variance; the standard deviation is its root")
    raise Wrong("the numbers differ from mean and std over images and pixels (axes 0, 2, 3)")


@_checker("4.2")
def exercise_4_2(answer):
    def rate(step, highest, warmup, total):
        if step < warmup:
            return highest * step / warmup
        return highest * (1 + np.cos(np.pi * (step - warmup) / (total - warmup))) / 2

    highest, warmup, total = 0.2, 10, 110
    got = np.array(
        [float(_ask(answer, step, highest, warmup, total, shape=())) for step in range(0, 111, 5)]
    )
    steps = np.arange(0, 111, 5)
    right = np.array([rate(step, highest, warmup, total) for step in steps])
    if _same(got, right):
        return "up in a straight line, down along a cosine."
    if np.isclose(got[0], highest, rtol=0.05):
        raise Wrong("at step 0 the rate should be 0: the warm-up is missing")
    if _same(
        got,
        np.array(
            [
                highest * s / warmup
                if s < warmup
                else highest * (1 + np.cos(np.pi * s / total)) / 2
                for s in steps
            ]
        ),
    ):
        raise Wrong(
            "at the end of the warm-up the rate jumps below the highest: count the "
            "cosine's steps from the end of the warm-up, step - warmup of total - warmup"
        )
    if _same(
        got,
        np.array(
            [
                highest * s / warmup
                if s < warmup
                else highest * (1 + np.cos(2 * np.pi * (s - warmup) / (total - warmup))) / 2
                for s in steps
            ]
        ),
    ):
        raise Wrong("that is a whole cosine, which rises again: half of one goes from 1 to -1")
    if np.any(got < -1e-9):
        raise Wrong("the rate becomes negative: (1 + cos) / 2 stays between 0 and 1")
    first = int(np.flatnonzero(~np.isclose(got, right, atol=1e-6))[0])
    raise Wrong(
        f"step {steps[first]} of 110 (warm-up 10, highest 0.2) should give "
        f"{right[first]:.4f}, not {got[first]:.4f}"
    )


@_checker("4.3")
def exercise_4_3(answer):
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 6), dtype=np.uint8)
    mask, before = np.array([True, False, False, True]), images.copy()
    got = _ask(answer, images, mask, shape=images.shape)
    if not np.array_equal(images, before):
        raise Wrong("the input was changed: work on a copy")
    right = before.astype(np.float64)
    right[mask] = right[mask][..., ::-1]
    if _same(got, right):
        return "the others are as they were."
    if _same(got, before[..., ::-1].astype(np.float64)):
        raise Wrong("all images are mirrored: only those of the mask should be")
    wrong = before.astype(np.float64)
    wrong[mask] = wrong[mask][:, :, ::-1]
    if _same(got, wrong):
        raise Wrong("that turns the images upside down: left to right is the last axis")
    wrong = before.astype(np.float64)
    wrong[~mask] = wrong[~mask][..., ::-1]
    if _same(got, wrong):
        raise Wrong("you mirror the images where the mask is false")
    raise Wrong("images of the mask should be mirrored along the last axis, all others unchanged")


@_checker("4.4")
def exercise_4_4(answer):
    paddle = _paddle()
    from .attention import nam_layers
    from .resnet import resnet18

    paddle.seed(0)
    network = resnet18(width=4)
    bns = [layer.bn for _, layer in nam_layers(network)]
    for bn in bns:
        bn.weight.set_value(paddle.randn(bn.weight.shape))
    total = _call(answer, network)
    got = _ask(total)
    if got.size != 1:
        raise Wrong(f"one number is wanted, not an array of shape {got.shape}: add everything up")
    got = float(got.item())
    right = float(sum(bn.weight.abs().sum() for bn in bns))
    if abs(got - right) > 1e-3 * right:
        everywhere = float(
            sum(
                layer.weight.abs().sum()
                for layer in network.sublayers()
                if isinstance(layer, paddle.nn.BatchNorm2D)
            )
        )
        if abs(got - everywhere) < 1e-3 * everywhere:
            raise Wrong("you count the backbone's batch norms too: only NAM's belong there")
        if abs(got - float(sum(bn.weight.sum() for bn in bns))) < 1e-3 * right:
            raise Wrong("the magnitudes are missing: gammas of both signs cancel in your sum")
        if abs(got - float(sum((bn.weight**2).sum() for bn in bns))) < 1e-3 * right:
            raise Wrong("that is the sum of squares; equation (4) has magnitudes")
        raise Wrong(f"the sum should be {right:.4f}, not {got:.4f}")
    if not isinstance(total, paddle.Tensor) or total.stop_gradient:
        raise Wrong(
            "the value is right, but no gradient flows: stay with Paddle's tensors, "
            "without float() or .numpy()"
        )
    return "and its gradient is the sign of each gamma."


# --------------------------------------------------------------------------------- 5, evaluation


@_checker("5.1")
def exercise_5_1(answer):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 20)), rng.integers(0, 20, 50)
    ranking = np.argsort(-logits, 1)

    def right(k):
        return 100 * (ranking[:, :k] == labels[:, None]).any(1).mean()

    for k in (1, 5):
        got = float(_ask(answer, logits, labels, k, shape=()))
        if abs(got - right(k)) < 1e-6:
            continue
        if abs(100 * got - right(k)) < 1e-6:
            raise Wrong("that is a share; per cent are wanted")
        if abs(got - 100 * (ranking[:, -k:] == labels[:, None]).any(1).mean()) < 1e-6:
            raise Wrong("those are the k smallest logits: argsort sorts upwards")
        if k == 5 and abs(got - right(1)) < 1e-6:
            raise Wrong("k is not used: top-5 asks whether the label is among the first five")
        if abs(got - 100 * (ranking[:, k - 1] == labels).mean()) < 1e-6:
            raise Wrong("you look at place k only: the label may be at any of the first k places")
        raise Wrong(f"top-{k} should be {right(k):.1f} %, not {got:.1f}")
    return "top-1 is the case k = 1."


@_checker("5.2")
def exercise_5_2(answer):
    from .evaluation import wilson_interval

    for right, n in ((4000, 10000), (2, 10), (0, 50)):
        got = _pair(answer, right, n, shape=())
        want = np.array(wilson_interval(right, n))
        if np.allclose(got, want, atol=2e-3):
            continue
        share, z = right / n, 1.959964
        plain = 100 * np.array(
            [
                share - z * np.sqrt(share * (1 - share) / n),
                share + z * np.sqrt(share * (1 - share) / n),
            ]
        )
        if np.allclose(got, plain, atol=1e-3):
            raise Wrong(
                "that is the plain interval p +- z sqrt(p (1 - p) / n), which says 0 to "
                "0 % where none is right; use Wilson's"
            )
        if np.allclose(100 * got, want, atol=2e-2):
            raise Wrong("those are shares; per cent are wanted")
        raise Wrong(
            f"{right} right of {n} should give {want[0]:.2f} to {want[1]:.2f} %, not "
            f"{got[0]:.2f} to {got[1]:.2f}"
        )
    return "even none of 50 right leaves room for 7 %."


@_checker("5.3")
def exercise_5_3(answer):
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
    right = np.zeros((4, 4))
    np.add.at(right, (true, predicted), 1)
    got = _ask(answer, true, predicted, 4, shape=(4, 4))
    if _same(got, right):
        return "the diagonal holds what is right."
    if _same(got, right.T):
        raise Wrong("rows and columns are swapped: the row is the true class")
    if _same(got, (right > 0).astype(float)):
        raise Wrong(
            "every pair is counted once at most: table[rows, columns] += 1 forgets pairs "
            "that come twice; use np.add.at or a loop"
        )
    raise Wrong("entry [i, j] should count the images of class i that were taken for class j")


@_checker("5.4")
def exercise_5_4(answer):
    for spread, difference in ((1.0, 0.5), (0.5, 0.5), (0.3, 1.0)):
        want = np.ceil((1.96 + 0.84) ** 2 * spread**2 / difference**2)
        got = float(_ask(answer, spread, difference, shape=()))
        if got == want:
            continue
        if abs(got - (1.96 + 0.84) ** 2 * spread**2 / difference**2) < 1e-6:
            raise Wrong("there is no fraction of a run: round up")
        if got == np.ceil(1.96**2 * spread**2 / difference**2):
            raise Wrong(
                "with 1.96 alone you would miss the difference every second time; add 0.84 "
                "to find it four times in five"
            )
        if got == np.ceil((1.96 + 0.84) * spread / difference):
            raise Wrong("the square is missing: half the difference takes four times the runs")
        raise Wrong(
            f"a spread of {spread} and a difference of {difference} should give {want:.0f} "
            f"pairs, not {got:g}"
        )
    return "a difference of half a point is expensive to see."


# --------------------------------------------------------------------------------------- 6, gamma


@_checker("6.1")
def exercise_6_1(answer):
    gamma = np.array([0.1, -0.5, 0.2, 0.05, 0.15])
    got = float(_ask(answer, gamma, shape=()))
    if got == 4:
        if float(_ask(answer, np.ones(10), shape=())) != 9:
            raise Wrong("ten equal gammas: nine of them are needed for 90 %")
        return "where all are equal, it takes 90 % of the channels."
    if got == 5:
        raise Wrong("you take the channels as they come: start with the largest weights")
    if got == 90 or 0 < got < 1:
        raise Wrong("a number of channels is wanted")
    raise Wrong(
        f"weights 0.5, 0.2, 0.15, 0.1, 0.05: the largest four hold 95 %, three only 85 %; "
        f"so 4, not {got:g}"
    )


@_checker("6.2")
def exercise_6_2(answer):
    rates = np.full(100, 0.1)
    got = float(_ask(answer, rates, 5e-4, 0.9, shape=()))
    want = np.exp(-rates.sum() * 5e-4 / 0.1)
    if abs(got - (1 - rates.sum() * 5e-4 / 0.1)) < 2e-4:
        raise Wrong(
            "each step takes a share of what is left, not of the start: a product (an "
            "exponential), not a straight line"
        )
    if abs(got - want) < 1e-3:
        other = float(_ask(answer, np.linspace(0.1, 0, 1000), 5e-4, 0.9, shape=()))
        if abs(other - np.exp(-0.05 * 1000 * 5e-3)) > 5e-3:
            raise Wrong("right for a constant rate, but the rate changes: add up all rates")
        return "no image was needed for that."
    if abs(got - np.exp(-rates.sum() * 5e-4)) < 1e-3:
        raise Wrong(
            "momentum is missing: each push goes on acting and adds up to "
            "1 / (1 - momentum) times itself"
        )
    raise Wrong(
        f"100 steps at 0.1, weight decay 0.0005, momentum 0.9 should leave {want:.4f} of a "
        f"gamma, not {got:.4f}"
    )


@_checker("6.3")
def exercise_6_3(answer):
    gamma = np.array([0.5, -2.0, 0.1, -0.3, 1.0])
    got = _ask(answer, gamma, 2, shape=(2,))
    chosen = sorted(int(v) for v in _finite(got))
    if chosen == [2, 3]:
        return "those are the two with the smallest |gamma|."
    if chosen == [1, 3]:
        raise Wrong("a gamma of -2 is a large one: order by magnitude")
    if chosen == [1, 4]:
        raise Wrong("those are the most important ones; the least important are to go")
    if set(np.round(got, 6)) <= set(np.round(gamma, 6)):
        raise Wrong("you return gammas; the numbers of the channels are wanted (np.argsort)")
    raise Wrong(f"of gamma {gamma.tolist()} the channels 2 and 3 should go, not {chosen}")


@_checker("6.4")
def exercise_6_4(answer):
    gamma, reach = np.array([0.4, 0.4, 0.4, 0.4]), 5.0
    want = 1 / (1 + np.exp(-0.25 * 0.4 * 5.0))
    got = _ask(answer, gamma, reach)
    if got.shape != (4,):
        raise Wrong(f"one number for each channel is wanted, shape (4,), not {got.shape}")
    if np.allclose(got, want, atol=1e-6):
        mixed = _ask(answer, np.array([1.0, -3.0]), 2.0, shape=(2,))
        if not np.allclose(mixed, 1 / (1 + np.exp(-np.array([0.25 * 1, 0.75 * 3]) * 2)), atol=1e-6):
            raise Wrong(
                "right where all gammas are equal and positive; a negative gamma reaches "
                "as far up, for negative x_hat: use its magnitude"
            )
        return "with C channels a trained gate reaches little more than a new one."
    if np.allclose(got, 1 / (1 + np.exp(-0.4 * 5.0)), atol=1e-6):
        raise Wrong("W is missing in the logit: W * gamma * x_hat")
    if np.allclose(got, 1 / (1 + np.exp(-0.25 * 5.0)), atol=1e-6):
        raise Wrong("gamma itself is missing in the logit: W * gamma * x_hat")
    raise Wrong(
        f"four gammas of 0.4 and |x_hat| up to 5 reach a gate of {want:.4f}, not {got[0]:.4f}"
    )
