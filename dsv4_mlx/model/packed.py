"""A weight as products take it: dense, or packed in one of MLX's ways."""

from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True)
class Packing:
    """How a packed weight is stored, in MLX's words."""

    group_size: int
    bits: int
    mode: str


@dataclass(frozen=True)
class Packed:
    """A packed weight: uint32 codes [..., out, in * bits / 32], scales and perhaps biases."""

    weight: mx.array
    scales: mx.array
    biases: mx.array | None
    packing: Packing

    def __getitem__(self, index: int | slice) -> "Packed":
        """Some rows of a matrix, or one expert's matrix of a stack."""
        biases = None if self.biases is None else self.biases[index]
        return Packed(self.weight[index], self.scales[index], biases, self.packing)

    def by_group(self, groups: int) -> "Packed":
        """The same rows as a stack of `groups` matrices [g, out, in]."""

        def stacked(part: mx.array) -> mx.array:
            return part.reshape(groups, -1, part.shape[-1])

        biases = None if self.biases is None else stacked(self.biases)
        return Packed(stacked(self.weight), stacked(self.scales), biases, self.packing)

    def after(self, done: list[mx.array]) -> "Packed":
        """The same weight, to be read only once `done` exists.

        Tiles are independent branches of the graph; without this MLX unpacks all of them before
        it multiplies the first.
        """
        if not done:
            return self
        weight, scales = mx.depends([self.weight, self.scales], done)
        return Packed(weight, scales, self.biases, self.packing)

    def multiply(self, x: mx.array, stream: mx.ThreadLocalStream | None = None) -> mx.array:
        """`x W^T` by MLX's packed product: [..., in] -> [..., out]."""
        return mx.quantized_matmul(
            x,
            self.weight,
            self.scales,
            self.biases,
            transpose=True,
            **vars(self.packing),
            stream=stream,
        )

    def gather(
        self,
        x: mx.array,
        rows: mx.array,
        experts: mx.array,
        stream: mx.ThreadLocalStream | None = None,
    ) -> mx.array:
        """Row `rows[r]` of x [M, in] times matrix `experts[r]` of the stack -> [R, out]."""
        return mx.gather_qmm(
            x[:, None, :],
            self.weight,
            self.scales,
            self.biases,
            lhs_indices=rows,
            rhs_indices=experts,
            transpose=True,
            **vars(self.packing),
            stream=stream,
        )[:, 0]

    def unpack(self, stream: mx.ThreadLocalStream | None = None) -> mx.array:
        """The float32 values, exactly."""
        return mx.dequantize(
            self.weight,
            self.scales,
            self.biases,
            **vars(self.packing),
            dtype=mx.float32,
            stream=stream,
        )


Matrix = mx.array | Packed
"""A weight [..., out, in]: dense in any float dtype, or packed."""
