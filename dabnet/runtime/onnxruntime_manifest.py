"""What an ONNX artifact says it is, compared with the graph that onnxruntime loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dabnet.errors import ArtifactError
from dabnet.runtime.manifest import DYNAMIC, ONNX_KEY, Manifest, TensorInfo


def manifest_of_session(session: Any, path: Path) -> Manifest:
    """Return the manifest of a loaded artifact, whose tensors are those that it declares.

    Raises:
        ArtifactError: there is none, it is damaged, or the graph has other tensors.
    """
    text = session.get_modelmeta().custom_metadata_map.get(ONNX_KEY)
    if text is None:
        raise ArtifactError(
            f"{str(path)!r} carries no manifest",
            "an ONNX file written by dabnet-export",
            "export it with: dabnet-export onnx CHECKPOINT",
        )
    manifest = Manifest.from_json(text, str(path))
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if (len(inputs), len(outputs)) != (1, 1):
        raise ArtifactError(
            f"{str(path)!r} has {len(inputs)} inputs and {len(outputs)} outputs",
            "1 input and 1 output",
            "export it again",
        )
    for declared, real in ((manifest.input, inputs[0]), (manifest.output, outputs[0])):
        wanted = (declared.name, _type_name(declared), declared.shape)
        # A side without a value, or with a name in its place, is one that each call chooses.
        shape = tuple(side if isinstance(side, int) else DYNAMIC for side in real.shape)
        if wanted != (real.name, real.type, shape):
            raise ArtifactError(
                f"{str(path)!r} has the tensor {real.name} {real.type} {real.shape}",
                f"{declared.name} {_type_name(declared)} {list(declared.shape)}, "
                "as its manifest says",
                "the file was changed after its export; export it again",
            )
    return manifest


def _type_name(tensor: TensorInfo) -> str:
    """``float32`` → ``tensor(float)``, as onnxruntime writes it."""
    return f"tensor({'float' if tensor.dtype == 'float32' else tensor.dtype})"
