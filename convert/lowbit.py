"""Few bits per weight: per group a scale and an offset that are searched, not read off the range.

A weight w becomes scale * code + offset. For given codes the best scale and offset are a weighted
least-squares fit; for given scale and offset the best code is the nearest. Several starting ranges,
the one that `mx.quantize` takes among them, are improved that way, and the best is kept, so that no
group is worse than MLX's own.

Scale and offset are stored in bfloat16. Each candidate is rounded before its codes are chosen and
its error is taken, so what is compared is what will be multiplied.
"""

import mlx.core as mx

# The starting range as a share of the group's: few bits are better spent without the extremes.
_SHARES = {2: (0.95, 0.85, 0.75, 0.65, 0.55), 3: (0.95, 0.85, 0.75), 4: (0.95, 0.88, 0.8)}
_OTHER_SHARES = (0.97, 0.93)
_ROUNDS = 2

AffineTensors = tuple[mx.array, mx.array, mx.array]
"""Words uint32 [rows, in * bits / 32], scales and offsets bfloat16 [rows, in / group_size]."""


def quantize(
    values: mx.array, bits: int, group_size: int, importance: mx.array | None = None
) -> AffineTensors:
    """float32 [rows, in] -> packed, evaluated.

    The squared error of a weight counts as much as `importance` says, float32 [1, in] for all rows
    or [rows, in]; without it all count the same.
    """
    rows, width = values.shape
    groups = values.reshape(rows, width // group_size, group_size)
    weights = mx.ones((1, 1, 1))
    if importance is not None:
        weights = importance.reshape(len(importance), width // group_size, group_size)
    best = _improved(groups, weights, *_mlx_start(values, bits, group_size), bits)
    low, high = groups.min(-1), groups.max(-1)
    middle, reach = (low + high) / 2, (high - low) / 2
    for share in _SHARES.get(bits, _OTHER_SHARES):
        start = 2 * share * reach / (2**bits - 1), middle - share * reach
        best = _better(best, _improved(groups, weights, *start, bits))
        mx.eval(*best)
    _, scale, offset = best
    codes = _codes(groups, scale, offset, bits).astype(mx.uint32)
    words = pack(codes.reshape(rows, width), bits)
    packed = words, scale.astype(mx.bfloat16), offset.astype(mx.bfloat16)
    mx.eval(*packed)
    return packed


def pack(codes: mx.array, bits: int) -> mx.array:
    """uint32 codes [rows, in] -> words [rows, in * bits / 32], first code in the lowest bits."""
    rows, width = codes.shape
    codes = codes.reshape(rows, width // 32, 32)
    words = [mx.zeros(codes.shape[:2], mx.uint32) for _ in range(bits)]
    for number in range(32):
        word, shift = divmod(number * bits, 32)
        code = codes[..., number]
        words[word] = words[word] | (code << shift)
        if shift + bits > 32:
            words[word + 1] = words[word + 1] | (code >> (32 - shift))
    return mx.stack(words, axis=-1).reshape(rows, width * bits // 32)


def _mlx_start(values: mx.array, bits: int, group_size: int) -> tuple[mx.array, mx.array]:
    _, scale, offset = mx.quantize(values.astype(mx.bfloat16), group_size=group_size, bits=bits)
    return scale.astype(mx.float32), offset.astype(mx.float32)


_Fit = tuple[mx.array, mx.array, mx.array]
"""Error, scale and offset of every group, [rows, groups]."""


def _improved(
    groups: mx.array, weights: mx.array, scale: mx.array, offset: mx.array, bits: int
) -> _Fit:
    scale, offset = _stored(scale), _stored(offset)
    codes = _codes(groups, scale, offset, bits)
    best = _error(groups, weights, codes, scale, offset), scale, offset
    for _ in range(_ROUNDS):
        scale, offset = map(_stored, _fitted(groups, weights, codes))
        codes = _codes(groups, scale, offset, bits)
        best = _better(best, (_error(groups, weights, codes, scale, offset), scale, offset))
    return best


def _stored(values: mx.array) -> mx.array:
    """float32 as it comes back from bfloat16."""
    return values.astype(mx.bfloat16).astype(mx.float32)


def _codes(groups: mx.array, scale: mx.array, offset: mx.array, bits: int) -> mx.array:
    """The nearest codes; zero where all weights of a group are equal."""
    divisor = mx.where(scale == 0, 1, scale)[..., None]
    return mx.clip(mx.round((groups - offset[..., None]) / divisor), 0, 2**bits - 1)


def _fitted(groups: mx.array, weights: mx.array, codes: mx.array) -> tuple[mx.array, mx.array]:
    """Scale and offset that are best for these codes; equal codes keep a scale of zero."""
    total = mx.maximum(mx.broadcast_to(weights, groups.shape).sum(-1), 1e-30)
    mean_code = (weights * codes).sum(-1) / total
    mean = (weights * groups).sum(-1) / total
    centred = codes - mean_code[..., None]
    spread = (weights * centred * centred).sum(-1)
    product = (weights * centred * (groups - mean[..., None])).sum(-1)
    scale = mx.where(spread > 0, product / mx.maximum(spread, 1e-30), 0)
    return scale, mean - scale * mean_code


def _error(
    groups: mx.array, weights: mx.array, codes: mx.array, scale: mx.array, offset: mx.array
) -> mx.array:
    difference = groups - (scale[..., None] * codes + offset[..., None])
    return (weights * difference * difference).sum(-1)


def _better(one: _Fit, other: _Fit) -> _Fit:
    better = other[0] < one[0]
    error, scale, offset = (mx.where(better, b, a) for a, b in zip(one, other, strict=True))
    return error, scale, offset
