"""Reading and writing ONNX artifacts: one file, weights and manifest inside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from dabnet import __version__
from dabnet.errors import ArtifactError, BuildError, first_line
from dabnet.files import replacing
from dabnet.runtime.manifest import ONNX_KEY, Manifest, carried_manifest
from dabnet.runtime.onnx_check import check_onnx_file, graph_sha256_of


def load_onnx(path: str | Path) -> ir.Model:
    """Parse an ONNX file of any tool.

    Raises:
        InputError: there is no such file.
        ArtifactError: it is damaged, or ``check_onnx_file`` refuses it.
    """
    path = check_onnx_file(path).path
    try:
        model: ir.Model = ir.from_proto(onnx.load(path))
    except Exception as error:  # of either library, which raise many kinds for a damaged file
        raise ArtifactError(
            f"{str(path)!r} cannot be read as ONNX (truncated, another format, or its weights lie"
            " in a file that is missing)",
            "a file written by dabnet-export",
            "export it again",
        ) from error
    if not len(model.graph):
        raise ArtifactError(f"{str(path)!r} holds no graph", "a file written by dabnet-export")
    return model


def manifest_of(model: ir.Model, source: str) -> Manifest:
    """Return the manifest inside a model, whatever was done to its graph since.

    ``source`` names the file in the error.

    Raises:
        ArtifactError: there is none, or it is damaged or of another format.
    """
    return carried_manifest(model.metadata_props, source)


def with_manifest(model: ir.Model, manifest: Manifest) -> onnx.ModelProto:
    """Return the file of ``model``, which carries ``manifest`` and nothing of this machine.

    The manifest gets the hash of the graph.

    Exporters write source paths of the machine into doc strings and metadata; they are dropped.
    """
    named = ir.to_proto(model)
    named.producer_name, named.producer_version = "dabnet-export", __version__
    _drop_notes(named)
    manifest = replace(manifest, graph_sha256=graph_sha256_of(named.SerializeToString()))
    onnx.helper.set_model_props(named, {ONNX_KEY: manifest.to_json()})
    return named


def check_onnx(model: onnx.ModelProto) -> None:
    """Raise BuildError if the graph is not valid ONNX."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BuildError(f"the exported graph is not valid ONNX ({first_line(error)})") from error


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Check ``model`` with the ONNX checker and write it atomically.

    Raises:
        BuildError: the graph is not valid ONNX.
        InputError: the file could not be written.
    """
    check_onnx(model)
    with replacing(path) as temporary:
        onnx.save(model, temporary)


def _drop_notes(message: Any) -> None:
    """Clear doc strings and metadata at every depth: nodes, tensors, values and subgraphs too."""
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            # A repeated field is a sequence; a single message has no length.
            for part in value if hasattr(value, "__len__") else (value,):
                _drop_notes(part)
