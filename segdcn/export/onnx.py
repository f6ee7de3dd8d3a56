"""ONNX files: for onnxruntime, TensorRT and OpenVINO.

Deformable layers become the standard DeformConv, or with `portable` GridSample and MatMul, for
runtimes without it.
"""

import importlib.util
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import segdcn.ops  # noqa: F401 (registers the operators that are translated)
from segdcn.description import Description
from segdcn.errors import InvalidDataError, MissingLibraryError, UserValueError
from segdcn.export.capture import DEFORM_CONV, capture, check_operators
from segdcn.export.portable import portable
from segdcn.fingerprint import fingerprint
from segdcn.predictor import Predictor

OPSET = 19  # the first with DeformConv; newer ones exclude runtimes and add bfloat16, which is not used
LARGEST = 1 << 31  # bytes of a protobuf, which is what an ONNX file is
LARGEST_WEIGHTS = LARGEST - (1 << 24)  # with room for the graph


def check_installed(*packages: str) -> None:
    """Refuse to go on without packages of the extra `export`.

    Raises:
        MissingLibraryError: Some are missing; the message says how to install them.
    """
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise MissingLibraryError(f"ONNX files need {', '.join(missing)}: pip install {' '.join(missing)}")


def write_onnx(network: nn.Module, description: Description, path: Path, *, portable_form: bool) -> None:
    """Write one file, whose input `image` has any batch, height and width.

    Raises:
        MissingLibraryError: A package is not installed.
        UserValueError: The network calls operators that have no translation, or is too large.
    """
    check_installed("onnx", "onnxscript", "onnxruntime")  # the last to prove it in, but it is asked for at the door
    import onnx

    size = sum(weight.nbytes for weight in network.state_dict().values())
    if size > LARGEST_WEIGHTS:
        raise UserValueError(
            f"the weights take {size:,} bytes, but an ONNX file holds {LARGEST:,} at most; try --half float16, or "
            "export as program or safetensors"
        )

    program = capture(portable(network) if portable_form else network, description.size_divisor)
    check_operators(program, set() if portable_form else {DEFORM_CONV}, "onnx-portable" if portable_form else "onnx")
    with redirect_stdout(io.StringIO()):  # the exporter's account of its steps
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            input_names=["image"],
            output_names=["logits"],
            opset_version=OPSET,
            custom_translation_table={torch.ops.segdcn.deform_conv2d.default: _deform_conv},
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    _tidy(model)
    content = fingerprint(dict(_initializers(model, path.parent)))
    onnx.helper.set_model_props(model, {**description.texts(), "content_sha256": content})
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _deform_conv(
    input: Any,
    weight: Any,
    offset: Any,
    mask: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    offset_groups: int,
    channels_last: bool,
    allow_tf32: bool,
) -> Any:
    """Translate torch.ops.segdcn.deform_conv2d, whose offsets and masks are in ONNX's order."""
    from onnxscript import opset19

    return opset19.DeformConv(
        input,
        weight,
        offset,
        bias,
        mask,
        kernel_shape=list(weight.shape[2:]),
        strides=list(stride),
        pads=[*padding, *padding],
        dilations=list(dilation),
        group=groups,
        offset_group=offset_groups,
    )


def _tidy(model: Any) -> None:
    """Name the free sizes, and drop what the exporter notes about the code and the machine it came from."""
    graph = model.graph
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        for dim, name in zip((dims[0], dims[2], dims[3]), ("batch", "height", "width"), strict=True):
            dim.dim_param = name
    del graph.value_info[:]
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]


def read_onnx(path: Path) -> Predictor:
    """Open a file in onnxruntime, on the CPU. An ONNX file cannot hold code.

    Raises:
        MissingFileError: There is no such file, or one that it refers to.
        InvalidDataError: It is damaged or was changed, refers to files out of its folder, or is not from segdcn.
        MissingLibraryError: onnx or onnxruntime is not installed.
    """
    check_installed("onnx", "onnxruntime")
    import onnx
    import onnxruntime
    from google.protobuf.message import DecodeError

    if path.stat().st_size >= LARGEST:
        raise InvalidDataError(f"{path} is larger than an ONNX file can be")
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise InvalidDataError(f"{path} cannot be read as an ONNX file: it is damaged or of another kind") from error
    texts = {entry.key: entry.value for entry in model.metadata_props}
    description = Description.from_texts(texts, path)
    _check_references(model, path)
    try:
        content = fingerprint(dict(_initializers(model, path.parent)))
    except MemoryError:
        raise
    except Exception as error:  # onnx raises whatever it trips over, and a type of its own for links
        raise InvalidDataError(f"{path} holds damaged weights: {' '.join(str(error).split())}") from error
    if texts.get("content_sha256") != content:
        raise InvalidDataError(
            f"the weights in {path} are not those that were written: they were changed, or are damaged; "
            "take an untouched copy"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors, which are raised too
    options.intra_op_num_threads = torch.get_num_threads()
    # Between two runs its threads would otherwise keep the processors busy with waiting.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own types, one for each of its codes
        raise InvalidDataError(f"onnxruntime cannot run {path}: {str(error).splitlines()[0]}") from error

    inputs, outputs = session.get_inputs(), session.get_outputs()
    shapes = {value.name: value.shape for value in (*inputs, *outputs)}
    # From (batch, 3, height, width) to (batch, N, height, width); free sizes have names.
    channels = [tuple(shapes.get(name, ())[1:2]) for name in ("image", "logits")]
    if len(inputs) != 1 or channels != [(3,), (len(description.class_names),)]:
        raise InvalidDataError(
            f"{path} takes {_shapes(inputs)} and gives {_shapes(outputs)}; expected image with 3 channels, and logits "
            f"with the {len(description.class_names)} of the classes that it names"
        )

    def run(image: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"image": image.cpu().contiguous().numpy()})[0])

    return Predictor(run, description)


def _shapes(values: Sequence[Any]) -> str:
    return ", ".join(f"{value.name} {value.shape}" for value in values)


def _initializers(model: Any, folder: Path) -> Iterator[tuple[str, Tensor]]:
    import onnx

    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor, str(folder))
        if values.dtype.name == "bfloat16":  # which torch does not take from numpy
            yield tensor.name, torch.from_numpy(values.view("int16").copy()).view(torch.bfloat16)
        else:
            yield tensor.name, torch.from_numpy(values.copy())


def _check_references(model: Any, path: Path) -> None:
    """Refuse weights that are to be read from elsewhere than the file's own folder."""
    folder = path.parent.resolve()
    for place in _locations(model):
        try:
            target = (folder / place).resolve()
        except (OSError, ValueError, RuntimeError) as error:  # a name that none can be, a loop of links
            raise InvalidDataError(f"{path} keeps weights in {place!r}, which cannot be read ({error})") from error
        if os.path.isabs(place) or not target.is_relative_to(folder):
            raise InvalidDataError(f"{path} wants to read {place!r}, outside its own folder; it is not to be trusted")
        if not target.is_file():
            raise InvalidDataError(f"{path} keeps weights in {place!r}, which is not there")


def _locations(message: Any) -> Iterator[str]:
    """Find every external location, in the graph, its subgraphs and functions."""
    import onnx

    if isinstance(message, onnx.TensorProto):
        yield from (entry.value for entry in message.external_data if entry.key == "location")
    else:
        for field, value in message.ListFields():
            if field.message_type is not None:
                for part in value if isinstance(value, Sequence) or hasattr(value, "add") else [value]:
                    yield from _locations(part)
