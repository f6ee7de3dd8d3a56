"""Deformable convolution in three dimensions: arguments and documentation.

All else is shared with two dimensions: checks in `deform_conv.py`, what torch has to know in
`registration.py`, the definition in `reference.py`, and what makes it fast in cuda/.
"""

from torch import Tensor

from segdcn.ops.deform_conv import convolve

Triple = int | tuple[int, int, int] | list[int]


def deform_conv3d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Triple = (1, 1, 1),
    padding: Triple = (0, 0, 0),
    dilation: Triple = (1, 1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """Convolve a volume, reading it at positions moved by `offset`.

    The twin of deform_conv2d in volumes and videos. For output pixel p and kernel tap k the
    input is read, trilinearly, at

        p * stride - padding + k * dilation + offset[k, p]

    and multiplied by `mask[k, p]`. The input counts as surrounded by zeros: reads at -1, at
    D (H, W) and beyond, and at NaN or infinite positions, give 0 and gradient 0. Zero offsets
    and no mask give `F.conv3d`; a kernel of depth 1 with dz = 0 gives deform_conv2d in every
    plane. At whole pixels the slope is the right-hand one, as in two dimensions.

    Precision, autocast, reproducibility and derivatives are deform_conv2d's. Second derivatives
    are computed a few planes of output pixels at a time, at least one.

    Args:
        input: Feature map (B, C, D, H, W); float16, bfloat16, float32 or float64. An input in
            torch.channels_last_3d gives such a result and is not copied.
        offset: Displacements in input pixels, (B, 3*G*K, Do, Ho, Wo) for K = kd*kh*kw taps,
            (dz, dy, dx) interleaved per tap. The number of offset groups G is read from this
            shape: channels g*C/G to (g+1)*C/G of the input use offset group g. float32, or
            the input's dtype.
        weight: Kernel (O, C/groups, kd, kh, kw) of the input's dtype; `groups` is read from it.
        bias: Added to each output channel, (O,).
        stride: Step between output pixels, in input pixels; int or (depth, height, width).
        padding: Zeros on each side, in input pixels; int or (depth, height, width).
        dilation: Distance of the taps, in input pixels; int or (depth, height, width).
        mask: Factor of each read, (B, G*K, Do, Ho, Wo); None is 1 everywhere. float32, or the
            input's dtype.

    Returns:
        The result (B, O, Do, Ho, Wo) of the input's dtype.

    Raises:
        ValueError: A shape, dtype, device or setting does not fit. The message names the
            argument, what it is and what it should be.
        ImportError: The extension is not built; the message says how to build it.

    Source: Dai et al. 2017, eq. 2, and Zhu et al. 2018, eq. 1, with a third dimension.
    """
    return convolve(3, input, offset, weight, bias, stride, padding, dilation, mask)
