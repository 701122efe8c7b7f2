"""Ranges that a network was trained with (``dabnet-train --qat``), by the tensors of its graph."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from dabnet.errors import ArtifactError

_ROOT = "/network"  # the attribute of ``ImageToMask`` that holds the network

_WAY_OUT = "export the checkpoint with the code that trained it, or --optimize-for portable"


def ranges_by_tensor(
    model: onnx.ModelProto, activation_ranges: Mapping[str, float]
) -> dict[str, float]:
    """Return the threshold of each tensor that feeds a convolution, in graph order.

    A convolution is found by its node's name, which the exporter makes from the module's path:
    ``init_conv.0.conv`` is ``/network/init_conv/init_conv.0/conv/Conv``. Where ``sink_concat`` has
    split one into the sum of convolutions of its parts, each part has the threshold of the whole.

    Args:
        model: the FP32 graph of the checkpoint, before Q/DQ. It is not modified.
        activation_ranges: threshold t >= 0 by module name, ``Checkpoint.activation_ranges``.

    Raises:
        ArtifactError: a convolution of the graph has no range, a range has no convolution, or two
            convolutions that read one tensor have different ranges.
    """
    modules = {f"{_ROOT}/{_scope(module)}/Conv": module for module in activation_ranges}
    ranges: dict[str, float] = {}
    reader: dict[str, str] = {}  # of each tensor: the first module
    missing = set(activation_ranges)
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        # A part is called /…/Conv_output_0/conv_4.
        module = modules.get(node.name.partition("_output_0/conv_")[0])
        if module is None:
            raise ArtifactError(
                f"the convolution {node.name!r} has no range in the checkpoint",
                "one for each convolution of the graph",
                _WAY_OUT,
            )
        tensor, threshold = node.input[0], activation_ranges[module]
        if ranges.setdefault(tensor, threshold) != threshold:
            raise ArtifactError(
                f"the tensor {tensor!r} has the range {ranges[tensor]:g} for {reader[tensor]!r}"
                f" and {threshold:g} for {module!r}",
                "one range for all convolutions that read a tensor",
                "train it again with --qat",
            )
        reader.setdefault(tensor, module)
        missing.discard(module)
    if missing:
        raise ArtifactError(
            f"the checkpoint has a range for {min(missing)!r}, which is no convolution of the graph"
            f" ({len(missing)} such)",
            "the graph of that checkpoint",
            _WAY_OUT,
        )
    return ranges


def _scope(module: str) -> str:
    """Path of a module in node names: ``a.0.b`` → ``a/a.0/b``; an index keeps its list's name."""
    parts: list[str] = []
    for part in module.split("."):
        parts.append(f"{parts[-1]}.{part}" if part.isdigit() and parts else part)
    return "/".join(parts)
