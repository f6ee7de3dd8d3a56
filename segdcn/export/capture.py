"""A network as a graph of any size: what ONNX files, programs and packages are made from."""

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from segdcn.errors import UserValueError

DEFORM_CONV = "segdcn::deform_conv2d"


def capture(network: nn.Module, size_divisor: int, device: str = "cpu") -> ExportedProgram:
    """Trace a network (B, 3, H, W) -> (B, N, H, W) for any batch and any sizes that it takes.

    Args:
        network: In evaluation mode, on `device`.
        size_divisor: Height and width are multiples of it.
        device: Where to trace it.
    """
    # A batch of two and no equal sides: what is 1, or equal, would be taken to be so always.
    example = torch.zeros(2, 3, 4 * size_divisor, 6 * size_divisor, device=device)
    # AUTO: with named dimensions export refuses the relation between them and the sizes inside.
    any_size = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}
    with torch.no_grad():
        program = torch.export.export(network, (example,), dynamic_shapes=(any_size,))
    sizes = image_sizes(program)
    assert not any(isinstance(sizes[d], int) for d in any_size), f"the program is for {sizes} only"
    return program


def image_sizes(program: ExportedProgram) -> list[int | torch.SymInt]:
    """Give the sizes of the program's input, symbolic where they are free."""
    (name,) = program.graph_signature.user_inputs
    (node,) = (node for node in program.graph.nodes if node.name == name)
    image: Tensor = node.meta["val"]
    return list(image.shape)


def smallest_side(program: ExportedProgram) -> int:
    """Find the least height and width that the program takes: more than one pixel of its coarsest map."""
    sides = [size for size in image_sizes(program)[2:] if isinstance(size, torch.SymInt)]
    return max(int(program.range_constraints[side.node.expr].lower) for side in sides)


def check_operators(program: ExportedProgram, allowed: set[str], form: str) -> None:
    """Refuse operators of segdcn that the form does not have.

    Raises:
        UserValueError: There are some; the message names them.
    """
    called = {
        node.target.name().partition(".")[0]
        for module in program.graph_module.modules()
        if isinstance(module, torch.fx.GraphModule)
        for node in module.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
    }
    if extra := sorted(name for name in called if name.startswith("segdcn::") and name not in allowed):
        cure = "" if "portable" in form else f"; try {form}-portable, or"
        raise UserValueError(
            f"{form} has no {', '.join(extra)}{cure}; leave these layers out, or export as program, safetensors or aoti"
        )
