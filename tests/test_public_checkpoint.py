"""Checkpoints of other trainers: one line says what a file is, and what it lacks can be given."""

from __future__ import annotations

import argparse
import io
import pickle
import re
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from dabnet.checkpoint import Given, load_checkpoint
from dabnet.errors import DabnetError
from dabnet.models import build_model

torch.set_num_threads(1)

State = dict[str, Tensor]


@cache
def state_of(model: str, outputs: int) -> State:
    torch.manual_seed(outputs)
    return build_model(model, outputs).state_dict()


def dabnet(outputs: int = 11, prefix: str = "", **more: Any) -> State:
    return {prefix + name: x for name, x in state_of("dabnet", outputs).items()} | more


def without(*names: str) -> State:
    return {name: x for name, x in dabnet().items() if name not in names}


def halved(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor


def names(*these: str) -> State:
    return dict.fromkeys(these, torch.zeros(2, 2))


def torch_file(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def torchscript() -> bytes:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Conv2d(3, 3, 1)), stream)
    return stream.getvalue()


def safetensors() -> bytes:
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    return struct.pack("<Q", len(header)) + header + bytes(4)


def onnx_file() -> bytes:
    graph = onnx.helper.make_graph([], "g", [], [])
    return bytes(onnx.helper.make_model(graph, producer_name="pytorch").SerializeToString())


def paddle(protocol: int) -> bytes:
    tensors = {name: np.zeros(3) for name in ("detail.S1.0.weight", "segment.S4.bn._mean")}
    return pickle.dumps(tensors | {"StructuredToParameterName@@": {}}, protocol)


NOTHING = Given()
CAMVID = Given("camvid")
CITYSCAPES = Given("cityscapes")
FIRST, SECOND = "init_conv.0.conv.weight", "init_conv.0.bn_prelu.bn.weight"

# What a file holds, what was said of it → the line.
LINES: dict[str, tuple[Callable[[], bytes] | Any, Given, str]] = {
    "no classes": (
        {"model": dabnet(prefix="module.")},
        NOTHING,
        r"is a dabnet checkpoint of 11 classes \(prefix 'module.' dropped\) and does not say"
        r" which; .*; add --dataset camvid, or --classes FILE of 11 names$",
    ),
    "20 outputs": (
        state_of("erfnet", 20),
        NOTHING,
        "is an erfnet checkpoint of 20 classes .* add --dataset cityscapes --void last, or --cl",
    ),
    "20 outputs of ENet": (state_of("enet", 20), NOTHING, "--dataset cityscapes --void first, or"),
    "no data set of so many": (dabnet(57), NOTHING, "of 57 classes and .*; add --classes FILE"),
    "another data set": (
        dabnet(19),
        CAMVID,
        "predicts 19 classes; expected 11, the classes of camvid; name the dataset that it was",
    ),
    "void": (
        state_of("lednet", 20),
        CITYSCAPES,
        "predicts 20 classes; expected 19, the classes of cityscapes, or .* add --void last",
    ),
    "void first": (state_of("enet", 20), CITYSCAPES, r"add --void first \(davidtvs/PyTorch-ENet;"),
    "void last": (state_of("enet", 12), CAMVID, "add --void last"),
    "no void": (dabnet(), Given("camvid", void="last"), "--void last, but .* leave --void out$"),
    "another model": (
        dabnet(),
        Given("camvid", "enet"),
        r"--model enet, but .* is a dabnet .* \(415 of 415 names\); .* leave --model out or give",
    ),
    "dilations": (
        dabnet(),
        Given("camvid", dilations=(2, 4)),
        "--dilations 2,4 for dabnet; expected 9 numbers of at least 1; published: 2,2,2,4,4,8",
    ),
    "no preprocessing": (
        dabnet(19),
        Given("cityscapes", scale=(1.0, 1.0, 1.0)),
        "--scale without --mean",
    ),
    "two missing": (
        without(FIRST, SECOND),
        CAMVID,
        f"is a dabnet checkpoint of 11 classes, but {FIRST} is missing, {SECOND} is missing; exp",
    ),
    "another shape": (
        dabnet() | {FIRST: torch.zeros(32, 4, 3, 3)},
        CAMVID,
        rf"but {FIRST} is \[32, 4, 3, 3\] and not \[32, 3, 3, 3\]; expected",
    ),
    "four more": (
        dabnet() | names("aux.a", "aux.b", "aux.c", "aux.d"),
        CAMVID,
        "but aux.a is not in it, aux.b is not in it, aux.c is not in it, and 1 more; expected",
    ),
    "CGNet": (
        {"model": names("module.level1_0.conv.weight", "module.level2_0.F_glo.fc.0.bias")},
        CAMVID,
        r"is not ours: its tensors look like CGNet \(\d+ of \d+ names of \w+, the nearest\); .*"
        "export it to ONNX with its own code",
    ),
    "BiSeNet": (names("cp.resnet.conv1.weight", "ffm.convblk.bn.bias"), CAMVID, "like BiSeNet "),
    "torchvision": (
        names("backbone.layer1.0.conv1.weight", "classifier.0.convs.0.0.weight"),
        CAMVID,
        "look like DeepLabV3 of torchvision",
    ),
    "SegFormer": (
        {"state_dict": names("backbone.patch_embed1.proj.weight", "decode_head.conv_seg.weight")},
        CAMVID,
        "look like a network of mmsegmentation",
    ),
    "an unknown network": (
        names("stem.w", "exit.w"),
        CAMVID,
        "not ours: it has tensors such as 'ex",
    ),
    "an optimiser": (
        {"optimizer": torch.optim.Adam([nn.Parameter(torch.zeros(2))]).state_dict()},
        CAMVID,
        "holds the state of an optimiser and no weights",
    ),
    "quantised": (
        {"conv.weight": torch.zeros(2, 2, dtype=torch.int8)},
        CAMVID,
        r"holds quantised weights \(torch.int8\); expected float weights",
    ),
    "a namespace": (
        {"model": dabnet(), "args": argparse.Namespace(lr=1)},
        CAMVID,
        "it holds argparse.Namespace.*keep its state dict alone",
    ),
    "Paddle 2": (paddle(2), CAMVID, "is a pickle of numpy arrays .of Paddle, .* like BiSeNetV2"),
    "Paddle 4": (paddle(4), CAMVID, "is a pickle of numpy arrays .of Paddle, .* like BiSeNetV2"),
    "TorchScript": (torchscript, CAMVID, "is a TorchScript archive; .*torch.jit.load"),
    "safetensors": (safetensors(), CAMVID, "is a safetensors file; .*safetensors.torch.load_file"),
    "ONNX": (onnx_file(), CAMVID, "is an ONNX file; .* name that ends in .onnx"),
}


@pytest.mark.parametrize("case", LINES)
def test_one_line_says_what_a_file_is(tmp_path: Path, case: str) -> None:
    content, given, expected = LINES[case]
    content = content() if callable(content) else content
    path = tmp_path / "x.pth"
    path.write_bytes(content if isinstance(content, bytes) else torch_file(content))
    with pytest.raises(DabnetError) as caught:
        load_checkpoint(path, given)
    message = str(caught.value)
    assert re.search(expected, message), message
    assert "\n" not in message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("prefix", "wrap"),
    [
        ("module.", lambda state: state),
        ("model.", lambda state: {"net": state, "miou": np.float64(0.6), "ious": np.zeros(3)}),
        ("", lambda state: {"epoch": 3, "checkpoint": {"model_state_dict": state, "lr": 0.1}}),
        ("", lambda state: {"ema": {k: x + 1 for k, x in state.items()}, "model": state}),
        ("module._orig_mod.", lambda state: {**state, "loss.total_ops": torch.zeros(1)}),
        ("net.backbone.", lambda state: {k: halved(x) for k, x in state.items()}),
    ],
    ids=["bare", "net-numpy", "nested", "ema", "thop", "half"],
)
def test_what_trainers_write(tmp_path: Path, prefix: str, wrap: Callable[[State], Any]) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(torch_file(wrap(dabnet(prefix=prefix))))
    loaded, expected = load_checkpoint(path, CAMVID).state, dabnet()
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.allclose(loaded[name], tensor, rtol=1e-3, atol=1e-7), name


@pytest.mark.parametrize("model", ["dabnet", "lednet", "erfnet", "enet"])
@pytest.mark.parametrize("void", [None, "first", "last"])
def test_own_classes_and_a_void_output(tmp_path: Path, model: str, void: str | None) -> None:
    """The outputs of the real classes are those of the file; the void one is gone."""
    outputs = 4 if void else 3
    torch.manual_seed(1)
    network = build_model(model, outputs).train()
    image = torch.rand(2, 3, 32, 64)
    network(image)  # BatchNorms that see data
    whole = {f"module.{name}": x for name, x in network.eval().state_dict().items()}
    path, classes = tmp_path / "x.pth", tmp_path / "classes.txt"
    path.write_bytes(torch_file({"state_dict": whole}))
    classes.write_text("128 64 128 road\n0 128 0 tree\n70 130 180 sky\n")
    mean = (1.0, 2.0, 3.0) if model == "dabnet" else None
    loaded = load_checkpoint(path, Given(model=model, classes=classes, void=void, mean=mean))
    assert (loaded.model, loaded.dataset) == (model, "folder")
    assert loaded.labels.classes == ("road", "tree", "sky")
    assert loaded.preprocessing.mean_rgb == (mean or (0.0, 0.0, 0.0))
    assert loaded.preprocessing.scale[0] == (1 if mean else 1 / 255)
    with torch.no_grad():
        expected = network(image)
        found = loaded.network()(image)
    kept = expected[:, 1:] if void == "first" else expected[:, :3]
    torch.testing.assert_close(found, kept)


def test_dilations_of_a_public_file(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(torch_file(dabnet()))
    dilations = (2, 2, 2, 2, 2, 4, 4, 8, 8)
    loaded = load_checkpoint(path, Given("camvid", dilations=dilations))
    assert loaded.dilations == dilations
    blocks = [m.dilation for m in loaded.network().modules() if isinstance(m, nn.Conv2d)]
    assert (8, 1) in blocks and (16, 1) not in blocks
    assert load_checkpoint(path, CAMVID).dilations == ()


def test_a_mean_that_nobody_published_is_asked_for(tmp_path: Path) -> None:
    path, classes = tmp_path / "x.pth", tmp_path / "classes.txt"
    path.write_bytes(torch_file(dabnet(3)))
    classes.write_text("road\ntree\nsky\n")
    with pytest.raises(DabnetError, match="none was published with dabnet .*; add --mean R,G,B"):
        load_checkpoint(path, Given(classes=classes))
    with pytest.raises(DabnetError, match="list 3 classes in '.*classes.txt'"):
        classes.write_text("road\ntree\nsky\ncar\nman\n")
        load_checkpoint(path, Given(classes=classes))
    with pytest.raises(
        DabnetError, match="--dataset camvid and --classes .*; expected one of them"
    ):
        load_checkpoint(path, Given("camvid", classes=classes))
