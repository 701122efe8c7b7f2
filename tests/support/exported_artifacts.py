"""The seeded checkpoint's artifacts, and what they are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from dabnet.data.dataset import LabelledImage
from dabnet.data.registry import open_dataset
from export.spec import ExportSpec
from tests.support.seeded_checkpoint import PREPROCESSING, SIZE, seeded_network

ort = pytest.importorskip("onnxruntime")

FP32 = ExportSpec(SIZE)
INT8 = ExportSpec(SIZE, "int8", calibration_images=3, check_images=4, minimum_agreement=0.5)
BATCH_OF_INT32 = ExportSpec(SIZE, batch=2, mask_dtype="int32", check_images=1)


def masks_of(path: Path, images: NDArray[np.uint8]) -> NDArray[Any]:
    """Run the file on onnxruntime, int8 in exact Q/DQ arithmetic."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["mask"], {"image": images})[0])


def expected_masks(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The checkpoint's masks, from the network alone: the mean in numpy, the argmax in numpy."""
    network = seeded_network()
    centred = images.astype(np.float32) - np.array(PREPROCESSING.mean_rgb, np.float32)
    with torch.inference_mode():
        logits = network(torch.from_numpy(centred.transpose(0, 3, 1, 2).copy())).numpy()
    return logits.argmax(axis=1)


def evenly_spaced(split: str, count: int) -> list[LabelledImage]:
    scenes = open_dataset("toy-street", split, None, SIZE)
    return [scenes[round(i)] for i in np.linspace(0, len(scenes) - 1, count)]


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def layers_in_network(kind: type[torch.nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in seeded_network().modules())
