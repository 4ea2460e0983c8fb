"""Convolutions that are fast on a CPU, by the way that is the fastest for a shape.

Optional: without it (NAM_EDU_CONVOLUTION=paddle) everything works, slower. Paddle's own CPU kernel
multiplies image by image; on small maps these products are too small to keep a processor busy. Here
the maps lie in memory channels last, (N, H, W, C), so that the pixels of the whole batch are the
rows of one matrix. `_by_products` chooses, after the measurements in results/convolution.md: oneDNN
(see `onednn`), or one of three ways to write a convolution as matrix products, which are faster on
the smallest maps, and on all small ones where there is no oneDNN (macOS,
NAM_EDU_CONVOLUTION=products):

    pixels     1x1 kernel, or a kernel as large as the map: the rows as they are times the weights
    winograd   3x3 kernel, stride 1, maps up to 8x8: Winograd's algorithm (Lavin and Gray,
               arXiv 1509.09308), 36 multiplications where the plain one needs 144, written as
               three matrix products
    gathered   other kernels on maps up to 8x8, and the stem: each output pixel's window is
               gathered into a row, then one product with the weights

What none of them does goes to Paddle's kernel. Values and gradients are Paddle's own up to
rounding; for what they cannot do see `operation`.
"""

from __future__ import annotations

import contextlib
import os
import threading
from fractions import Fraction
from functools import lru_cache

import numpy as np
import paddle
import paddle.nn.functional as F

from . import onednn
from .operation import Operation

LARGEST_MAP = 8 * 8  # pixels
FEW_CHANNELS = 4  # of images
LARGEST_IMAGE = 64 * 64  # pixels; of larger images the windows of the stem would fill the memory


def switched_off():
    """By the user, or where several processes train together: Paddle's DataParallel does not
    average the gradients that come from a PyLayer."""
    return (
        os.environ.get("NAM_EDU_CONVOLUTION") == "paddle"
        or int(os.environ.get("PADDLE_TRAINERS_NUM", "1")) > 1
    )


def conv2d(x, weight, bias=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    """A convolution of maps that lie channels last: (N, H, W, C) -> (N, H', W', C').

    weight (C', C / groups, kh, kw) as in `nn.Conv2D`; stride, padding and dilation are pairs.
    Values and gradients are those of `paddle.nn.functional.conv2d` up to rounding.
    """
    if x.dtype == paddle.float32 and x.place.is_cpu_place():
        if _by_products(x, weight, stride, dilation, groups):
            y = _convolve(x, weight, stride, padding)
            return y if bias is None else y + bias
        if onednn.available():
            with contextlib.suppress(onednn.Refused):
                return onednn.conv2d(x, weight, bias, stride, _both_ends(padding), dilation, groups)
    y = F.conv2d(x.transpose([0, 3, 1, 2]), weight, bias, stride, padding, dilation, groups)
    return y.transpose([0, 2, 3, 1])


def folded_conv2d(x, bn, relu, weight, bias, stride, padding, dilation, groups):
    """A convolution, the batch norm `bn` in inference mode, and relu if wanted, as one convolution
    with other weights; for passes without gradients."""
    how = stride, _both_ends(padding), dilation, groups
    if not _by_products(x, weight, stride, dilation, groups) and onednn.available():
        with contextlib.suppress(onednn.Refused):
            shape = tuple(x.shape), tuple(weight.shape), *how, relu
            packed, shift = made_of(_folded, weight, bias, bn, shape)
            return onednn.Inference(*shape)(x, packed, shift)
    weight, shift = made_of(_folded, weight, bias, bn)
    y = conv2d(x, weight, None, stride, padding, dilation, groups).add_(shift)
    return F.relu_(y) if relu else y


def _folded(weight, bias, bn, shape=None):
    """(weights, bias) of a convolution and the batch norm after it; shape: for oneDNN."""
    scale = (bn._variance + bn._epsilon).rsqrt()
    scale = scale if bn.weight is None else scale * bn.weight
    shift = -bn._mean if bias is None else bias - bn._mean
    shift = shift * scale if bn.bias is None else shift * scale + bn.bias
    weight = weight * scale.reshape([-1, 1, 1, 1])
    return (onednn.Inference(*shape).packed(weight) if shape else weight), shift


def _both_ends(padding):
    return padding[0], padding[0], padding[1], padding[1]


def _by_products(x, weight, stride, dilation, groups):
    """Whether our own matrix products are the fastest for this shape."""
    if groups != 1 or tuple(dilation) != (1, 1):
        return False
    _, h, w, channels = x.shape
    pixels, training = h * w, paddle.is_grad_enabled()
    single = tuple(weight.shape[2:]) == (1, 1)
    if not onednn.available():
        few = channels <= FEW_CHANNELS and pixels <= LARGEST_IMAGE
        return pixels <= LARGEST_MAP or single or few
    if pixels <= 2 * 2:
        return True
    if single:  # without gradients oneDNN takes batch norm and relu along
        return training and pixels <= 8 * 8
    fewest = 128 if not training else 48 if pixels <= 4 * 4 else 96
    return tuple(stride) == (1, 1) and pixels <= 8 * 8 and channels >= fewest


# ------------------------------------------------------------------------ weights made ready


class _Prepared(threading.local):
    """What was made of weights, for the thread that is inside `fixed_weights`; else None."""

    made = None


_prepared = _Prepared()


@contextlib.contextmanager
def fixed_weights(made):
    """Inside, in this thread, what the convolutions make of their weights is kept in the dictionary
    `made` and used again. The caller promises that no weight changes as long as it is in use."""
    before, _prepared.made = _prepared.made, made
    try:
        yield
    finally:
        _prepared.made = before


def made_of(make, weight, *shape):
    """make(weight, *shape); inside `fixed_weights` the same as last time."""
    made = _prepared.made
    if made is None or paddle.is_grad_enabled():
        return make(weight, *shape)
    key = id(weight), make, shape
    if key not in made:
        made[key] = make(weight, *shape), weight  # held, so that no other weight takes its id
    return made[key][0]


def _convolve(x, weight, stride, padding):
    n, h, w, c_in = x.shape
    c_out, _, kh, kw = weight.shape
    y0, y1, top, bottom = _used(h, kh, stride[0], padding[0])
    x0, x1, left, right = _used(w, kw, stride[1], padding[1])
    kernel, padding = (y1 - y0, x1 - x0), (top, bottom, left, right)
    if kernel != (kh, kw):  # the rest of the kernel only ever meets padding
        weight = made_of(_cropped, weight, (y0, y1), (x0, x1))
    if padding == (0, 0, 0, 0) and kernel == (h, w):
        return _pixels(x, weight).reshape([n, 1, 1, c_out])
    if padding == (0, 0, 0, 0) and kernel == stride == (1, 1):
        return _pixels(x, weight).reshape([n, h, w, c_out])
    if kernel == (3, 3) and stride == (1, 1):
        if paddle.is_grad_enabled():
            return _Winograd.apply(x, weight, padding)
        return _winograd_forward(x, made_of(_winograd_weight, weight, h, w, padding), padding)[0]
    if paddle.is_grad_enabled():
        return _Gathered.apply(x, weight, stride, padding)
    return _gathered_forward(x, weight, stride, padding)[0]


def _used(size, kernel, stride, padding):
    """The taps first:last of a kernel that ever meet the map, and the padding that is left on each
    side: on a 1x1 map a 3x3 kernel with padding is its centre."""
    out = (size + 2 * padding - kernel) // stride + 1
    first = max(0, padding - (out - 1) * stride)
    last = min(kernel, size + padding)
    return first, last, padding - first, (out - 1) * stride - padding + last - size


def _cropped(weight, rows, columns):
    """The taps in these rows and columns: (C', C, kh, kw) -> (C', C, rows, columns)."""
    c_out, c_in, kh, kw = weight.shape
    taps = paddle.matmul(weight.reshape([-1, kh * kw]), _selection((kh, kw), rows, columns))
    return taps.reshape([c_out, c_in, rows[1] - rows[0], columns[1] - columns[0]])


@lru_cache(maxsize=64)
def _selection(kernel, rows, columns):
    """(kh*kw, taps): picks rows and columns of a flattened kernel."""
    taps = np.arange(kernel[0] * kernel[1]).reshape(kernel)[slice(*rows), slice(*columns)]
    return _constant(np.eye(kernel[0] * kernel[1])[:, taps.reshape(-1)], "float32")


def _constant(array, dtype):
    return paddle.to_tensor(np.ascontiguousarray(array, dtype=dtype), place=paddle.CPUPlace())


# --------------------------------------------------------------------------------------- pixels


def _pixels(x, weight):
    """Every kernel sees whole pixels that lie one after the other in memory."""
    c_out, c_in, kh, kw = weight.shape
    rows = x.reshape([-1, kh * kw * c_in])
    return paddle.matmul(rows, made_of(_as_matrix, weight), transpose_y=True)


def _as_matrix(weight):
    """(C', C, kh, kw) -> (C', kh*kw*C)"""
    c_out, c_in, kh, kw = weight.shape
    if kh * kw > 1:
        weight = weight.transpose([0, 2, 3, 1])
    return weight.reshape([c_out, kh * kw * c_in])


# ------------------------------------------------------------------------------------- winograd


def _winograd_1d(m, r):
    """Matrices A, B, G with A @ ((G @ g) * (B @ d)) = the m correlations of d (m + r - 1 values)
    with g (r values): polynomials multiplied at m + r - 2 points and at infinity."""
    points = [Fraction(p) for p in (0, "3/4", "-3/4", "3/2", "-3/2")[: m + r - 2]]

    def polynomial(roots):
        result, zero = [Fraction(1)], [Fraction(0)]
        for root in roots:
            result = [a - root * b for a, b in zip(zero + result, result + zero)]
        return result

    rows_a, rows_b, rows_g = [], [], []
    for p in points:
        others = [q for q in points if q != p]
        scale = 1
        for q in others:
            scale *= p - q
        rows_a.append([p**i for i in range(m)])
        rows_b.append(polynomial(others) + [Fraction(0)])
        rows_g.append([p**i / scale for i in range(r)])
    rows_a.append([Fraction(int(i == m - 1)) for i in range(m)])
    rows_b.append(polynomial(points))
    rows_g.append([Fraction(int(i == r - 1)) for i in range(r)])
    return np.array(rows_a, float).T, np.array(rows_b, float), np.array(rows_g, float)


def _winograd_axis(size, out, before):
    """The same for an axis of `size` pixels, `before` of padding and `out` outputs, cut into tiles
    of at most four outputs: A (out, points, tiles), B (points, tiles, size), G (points, 3)."""
    m = min(4, out)
    tiles = -(-out // m)
    a, b, g = _winograd_1d(m, 3)
    n = len(b)
    all_a, all_b = np.zeros((tiles * m, n, tiles)), np.zeros((n, tiles, tiles * m + 2))
    for t in range(tiles):
        all_a[t * m : (t + 1) * m, :, t] = a
        all_b[:, t, t * m : t * m + n] = b
    padded = np.zeros((n, tiles, before + size + tiles * m + 2))
    padded[:, :, : tiles * m + 2] = all_b
    return all_a[:out], padded[:, :, before : before + size], g


@lru_cache(maxsize=64)
def _winograd(h, w, padding):
    """The matrices of both axes in one: A (H'*W', points), B (points, H*W), G (points, 9)."""
    top, bottom, left, right = padding
    out_h, out_w = h + top + bottom - 2, w + left + right - 2
    (ay, by, gy), (ax, bx, gx) = _winograd_axis(h, out_h, top), _winograd_axis(w, out_w, left)
    a = np.einsum("ypt,xqs->yxpqts", ay, ax).reshape(out_h * out_w, -1)
    b = np.einsum("pty,qsx->pqtsyx", by, bx).reshape(-1, h * w)
    g = np.einsum("pi,qj->pqij", gy, gx).reshape(-1, 9)
    return *(_constant(matrix, "float32") for matrix in (a, b, g)), out_h, out_w


@lru_cache(maxsize=64)
def _swap(a, b):
    """Takes rows in the order (a, b) to the order (b, a)."""
    return _constant(np.arange(a * b).reshape(a, b).T.reshape(-1), "int32")


def _winograd_weight(weight, h, w, padding):
    """(C', C, 3, 3) -> (points, C', C)"""
    g = _winograd(h, w, padding)[2]
    u = paddle.matmul(g, weight.reshape([-1, 9]), transpose_y=True)
    return u.reshape([g.shape[0], *weight.shape[:2]])


def _winograd_forward(x, u, padding):
    """(the convolution of x, the transformed x), with the transformed weight u."""
    n, h, w, c_in = x.shape
    a, b, _, out_h, out_w = _winograd(h, w, padding)
    points, c_out, _ = u.shape
    x_rows = paddle.gather(x.reshape([n * h * w, c_in]), _swap(n, h * w))
    v = paddle.matmul(b, x_rows.reshape([h * w, n * c_in])).reshape([points, -1, c_in])
    y = paddle.matmul(v, u, transpose_y=True)  # (points, tiles*N, C')
    y = paddle.matmul(a, y.reshape([a.shape[1], n * c_out]))  # (H'*W', N*C')
    y = paddle.gather(y.reshape([out_h * out_w * n, c_out]), _swap(out_h * out_w, n))
    return y.reshape([n, out_h, out_w, c_out]), v


class _Winograd(Operation):
    @staticmethod
    def forward(ctx, x, weight, padding):
        n, h, w, _ = x.shape
        u = _winograd_weight(weight, h, w, padding)
        y, v = _winograd_forward(x, u, padding)
        ctx.save_for_backward(v, u)
        a, b, g, out_h, out_w = _winograd(h, w, padding)
        ctx.known = a, b, g, n, h, w, out_h, out_w
        ctx.wanted = not x.stop_gradient, not weight.stop_gradient  # None is due for the others
        return y

    @staticmethod
    def backward(ctx, grad):
        v, u = ctx.saved_tensor()
        a, b, g, n, h, w, out_h, out_w = ctx.known
        points, c_out, c_in = u.shape
        grad = paddle.gather(grad.reshape([n * out_h * out_w, c_out]), _swap(n, out_h * out_w))
        grad = paddle.matmul(a, grad.reshape([out_h * out_w, n * c_out]), transpose_x=True)
        grad = grad.reshape([points, -1, c_out])
        grad_x = grad_weight = None
        if ctx.wanted[1]:
            grad_weight = paddle.matmul(grad, v, transpose_x=True)
            grad_weight = grad_weight.reshape([points, c_out * c_in])
            grad_weight = paddle.matmul(grad_weight, g, transpose_x=True)
            grad_weight = grad_weight.reshape([c_out, c_in, 3, 3])
        if ctx.wanted[0]:
            grad_x = paddle.matmul(grad, u).reshape([b.shape[0], n * c_in])
            grad_x = paddle.matmul(b, grad_x, transpose_x=True)
            grad_x = paddle.gather(grad_x.reshape([h * w * n, c_in]), _swap(h * w, n))
            grad_x = grad_x.reshape([n, h, w, c_in])
        return grad_x, grad_weight


# ------------------------------------------------------------------------------------- gathered


@lru_cache(maxsize=64)
def _places(n, h, w, kernel, stride, padding):
    """Row numbers (N, H', W', kh, kw) of the pixels that each window sees; N*H*W is padding."""
    (kh, kw), (sy, sx), (top, bottom, left, right) = kernel, stride, padding
    out_h, out_w = (h + top + bottom - kh) // sy + 1, (w + left + right - kw) // sx + 1
    y = (np.arange(out_h) * sy - top)[:, None, None, None] + np.arange(kh)[:, None]
    x = (np.arange(out_w) * sx - left)[:, None, None] + np.arange(kw)
    inside = (0 <= y) & (y < h) & (0 <= x) & (x < w)
    first = np.arange(n)[:, None, None, None, None] * (h * w)
    return np.where(inside, first + y * w + x, n * h * w)


@lru_cache(maxsize=64)
def _window_table(*shape):
    return _constant(_places(*shape).reshape(-1), "int32")


@lru_cache(maxsize=64)
def _reader_tables(*shape):
    """Where in `_places` each pixel is read: one table for the k-th reader of every pixel."""
    places, pixels = _places(*shape).reshape(-1), shape[0] * shape[1] * shape[2]
    order = np.argsort(places, kind="stable")
    order = order[: np.searchsorted(places[order], pixels)]
    pixel = places[order]
    rank = np.arange(len(pixel)) - np.searchsorted(pixel, pixel)
    tables = np.full((rank.max() + 1, pixels), places.size)
    tables[rank, pixel] = order
    return [_constant(table, "int32") for table in tables]


def _with_zeros(rows):
    """One more row, of zeros, for what lies outside the map."""
    return paddle.concat([rows, paddle.zeros([1, rows.shape[1]], rows.dtype)])


def _windows(x, kernel, stride, padding):
    """(N, H, W, C) -> (N*H'*W', kh*kw*C)"""
    n, h, w, c = x.shape
    (kh, kw), (sy, sx), (top, bottom, left, right) = kernel, stride, padding
    if c <= FEW_CHANNELS < kw * c and kh > 1:  # to copy longer pieces: first along x, then along y
        rows = _windows(x, (1, kw), (1, sx), (0, 0, left, right))
        rows = rows.reshape([n, h, rows.shape[0] // (n * h), kw * c])
        return _windows(rows, (kh, 1), (sy, 1), (top, bottom, 0, 0))
    rows = x.reshape([n * h * w, c])
    if max(padding) > 0:
        rows = _with_zeros(rows)
    table = _window_table(n, h, w, kernel, stride, padding)
    return paddle.gather(rows, table).reshape([-1, kh * kw * c])


def _gathered_forward(x, weight, stride, padding):
    """(the convolution of x, its windows)"""
    n, h, w, _ = x.shape
    c_out, _, kh, kw = weight.shape
    top, bottom, left, right = padding
    rows = _windows(x, (kh, kw), stride, padding)
    y = paddle.matmul(rows, made_of(_as_matrix, weight), transpose_y=True)
    return y.reshape(
        [
            n,
            (h + top + bottom - kh) // stride[0] + 1,
            (w + left + right - kw) // stride[1] + 1,
            c_out,
        ]
    ), rows


class _Gathered(Operation):
    @staticmethod
    def forward(ctx, x, weight, stride, padding):
        y, rows = _gathered_forward(x, weight, stride, padding)
        ctx.save_for_backward(rows, weight)
        ctx.known = x.shape, stride, padding
        ctx.wanted = not x.stop_gradient, not weight.stop_gradient
        return y

    @staticmethod
    def backward(ctx, grad):
        rows, weight = ctx.saved_tensor()
        (n, h, w, c_in), stride, padding = ctx.known
        c_out, _, kh, kw = weight.shape
        grad = grad.reshape([-1, c_out])
        grad_weight = None
        if ctx.wanted[1]:
            grad_weight = paddle.matmul(grad, rows, transpose_x=True)
            grad_weight = grad_weight.reshape([c_out, kh, kw, c_in]).transpose([0, 3, 1, 2])
        if not ctx.wanted[0]:
            return None, grad_weight
        rows = _with_zeros(paddle.matmul(grad, _as_matrix(weight)).reshape([-1, c_in]))
        tables = _reader_tables(n, h, w, (kh, kw), stride, padding)
        grad_x = paddle.gather(rows, tables[0])
        for table in tables[1:]:
            grad_x.add_(paddle.gather(rows, table))
        return grad_x.reshape([n, h, w, c_in]), grad_weight
