"""The ONNX artifact of a checkpoint, read back from the file that was written."""

from __future__ import annotations

import errno
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from seeded_checkpoint import PREPROCESSING, SIZE, no_bar, noise, seeded_network, write_checkpoint

import export.images
from dabnet.checkpoint import load_checkpoint
from dabnet.data.dataset import LabelledImage
from dabnet.data.labels import label_set
from dabnet.data.registry import open_dataset
from dabnet.errors import BuildError, InputError
from dabnet.runtime.manifest import Manifest
from export.export_spec import ExportSpec
from export.onnx_export import export_onnx
from export.onnx_file import load_onnx, manifest_of, save_onnx, with_manifest

ort = pytest.importorskip("onnxruntime")

FP32 = ExportSpec(SIZE)
INT8 = ExportSpec(SIZE, "int8", calibration_images=3, check_images=4, minimum_agreement=0.5)
BATCH_OF_INT32 = ExportSpec(SIZE, batch=2, mask_dtype="int32", check_images=1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def artifacts(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Manifest]]:
    """Each spec's file, alone in its folder, and the manifest that ``export_onnx`` returned."""
    made = {}
    for name, spec in (("fp32", FP32), ("int8", INT8), ("batch", BATCH_OF_INT32)):
        path = tmp_path_factory.mktemp(name) / "model.onnx"
        made[name] = (path, export_onnx(checkpoint, path, spec, progress=no_bar))
    return made


def masks_of(path: Path, images: NDArray[np.uint8]) -> NDArray[Any]:
    """Run the file as any user of onnxruntime would."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
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


def strings_named(message: Any, field: str) -> list[str]:
    """All values of a string field, at any depth of a protobuf message."""
    found = []
    for descriptor, value in message.ListFields():
        if descriptor.name == field:
            found.append(value)
        elif descriptor.message_type is not None:
            repeated = hasattr(value, "__len__")
            for part in value if repeated else [value]:
                found += strings_named(part, field)
    return found


# --- the contract -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "batch", "mask"), [("fp32", 1, "UINT8"), ("batch", 2, "INT32"), ("int8", 1, "UINT8")]
)
def test_one_valid_file_with_the_contract_of_tensors(
    artifacts: dict[str, tuple[Path, Manifest]], name: str, batch: int, mask: str
) -> None:
    path, manifest = artifacts[name]
    assert list(path.parent.iterdir()) == [path]  # no file of weights beside it
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 17)]
    tensors = {}
    for item in (*model.graph.input, *model.graph.output):
        shape = tuple(side.dim_value for side in item.type.tensor_type.shape.dim)
        tensors[item.name] = (
            onnx.TensorProto.DataType.Name(item.type.tensor_type.elem_type),
            shape,
        )
    assert tensors == {"image": ("UINT8", (batch, *SIZE, 3)), "mask": (mask, (batch, *SIZE))}
    assert (manifest.input.name, manifest.input.dtype, manifest.input.shape) == (
        "image",
        "uint8",
        (batch, *SIZE, 3),
    )
    assert (manifest.output.name, manifest.output.dtype, manifest.output.shape) == (
        "mask",
        mask.lower(),
        (batch, *SIZE),
    )


def test_batch_norm_behind_a_convolution_is_folded(
    artifacts: dict[str, tuple[Path, Manifest]],
) -> None:
    model = onnx.load(artifacts["fp32"][0])
    by_output = producers(model)
    kinds = [node.op_type for node in model.graph.node]
    behind = [
        by_output[node.input[0]].op_type
        for node in model.graph.node
        if node.op_type == "BatchNormalization"
    ]
    assert "Conv" not in behind
    # What remains stands behind a Concat, an Add or a residual sum; most are gone.
    assert 0 < len(behind) < layers_in_network(torch.nn.BatchNorm2d) / 2
    assert kinds.count("Conv") == layers_in_network(torch.nn.Conv2d)  # none was split or lost


@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_nothing_of_this_machine_is_in_the_file(
    artifacts: dict[str, tuple[Path, Manifest]], name: str
) -> None:
    path, _ = artifacts[name]
    content = path.read_bytes()
    repository = str(Path(__file__).parents[2])
    for trace in (
        repository,
        tempfile.gettempdir() + "/",
        str(Path.home()) + "/",
        ".py",
        "-packages",
    ):
        assert trace.encode() not in content, trace
    model = onnx.load(path)
    assert strings_named(model, "doc_string") == []
    assert [entry.key for entry in model.metadata_props] == ["dabnet_manifest"]


def test_traces_of_any_exporter_are_dropped(
    artifacts: dict[str, tuple[Path, Manifest]], tmp_path: Path
) -> None:
    """Another release of an exporter may write source paths elsewhere in the graph."""
    path, manifest = artifacts["fp32"]
    model = onnx.load(path)
    graph = model.graph
    trace = "/home/somebody/model.py:17"
    for message in (model, graph, graph.node[3], graph.initializer[0], graph.input[0]):
        message.doc_string = trace
    for message in (model, graph, graph.node[3], graph.output[0]):
        if "metadata_props" in message.DESCRIPTOR.fields_by_name:
            message.metadata_props.add(key="stack_trace", value=trace)
    branch = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["a"], ["b"])], "branch", [], [])
    branch.node[0].doc_string = trace
    graph.node[3].attribute.append(onnx.helper.make_attribute("body", branch))
    clean = with_manifest(model, manifest)
    assert b"somebody" not in clean.SerializeToString()
    assert manifest_of(clean, "test") == manifest
    assert b"somebody" in model.SerializeToString()  # the argument is left as it was


# --- the manifest -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fp32", "int8", "batch"])
def test_the_manifest_inside_is_the_one_returned(
    artifacts: dict[str, tuple[Path, Manifest]], name: str
) -> None:
    path, manifest = artifacts[name]
    inside = manifest_of(load_onnx(path), str(path))
    assert inside == manifest
    assert Manifest.from_json(inside.to_json(), "test") == manifest


def test_the_manifest_is_complete(
    checkpoint: Path, artifacts: dict[str, tuple[Path, Manifest]]
) -> None:
    manifest = artifacts["fp32"][1]
    labels = label_set("toy-street")
    assert manifest.checkpoint_sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (manifest.model, manifest.dataset, manifest.precision) == (
        "dabnet",
        "toy-street",
        "fp32",
    )
    assert (manifest.classes, manifest.palette) == (labels.classes, labels.palette)
    assert (manifest.ignore, manifest.preprocessing) == (labels.ignore, PREPROCESSING)
    assert (manifest.opset, manifest.channel_order, manifest.size) == (17, "RGB", SIZE)
    assert manifest.libraries["onnx"] == onnx.__version__
    assert manifest.libraries["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert manifest.tool_version
    assert (manifest.engine, manifest.calibration) == (None, None)


@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_the_agreement_is_the_one_recomputed_by_hand(
    artifacts: dict[str, tuple[Path, Manifest]], name: str
) -> None:
    path, manifest = artifacts[name]
    agreement = manifest.agreement
    assert agreement is not None
    count = int(agreement.images.split()[0])
    assert count == {"fp32": 8, "int8": 4}[name]
    assert agreement.images == f"{count} images of toy-street val"
    images = [scene.image[None] for scene in evenly_spaced("val", count)]
    shares = [float((masks_of(path, i) == expected_masks(i)).mean()) for i in images]
    assert agreement.mean == pytest.approx(np.mean(shares), abs=5e-4)
    assert agreement.worst == pytest.approx(min(shares), abs=5e-4)
    if name == "int8":  # or the check above would hold for a constant
        assert agreement.worst < agreement.mean < 0.999


# --- the masks --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fp32", "batch"])
def test_masks_equal_the_networks(artifacts: dict[str, tuple[Path, Manifest]], name: str) -> None:
    path, manifest = artifacts[name]
    images = noise(manifest.input.shape, seed=11)
    masks, expected = masks_of(path, images), expected_masks(images)
    assert masks.dtype == manifest.output.dtype
    assert (masks == expected).mean() >= 0.999
    assert len(np.unique(expected)) >= 8  # an image that tells the classes apart
    if len(images) > 1:
        assert (expected[0] != expected[1]).mean() > 0.1


# --- INT8 -------------------------------------------------------------------------------------


def test_qdq_stands_only_before_convolutions(
    artifacts: dict[str, tuple[Path, Manifest]],
) -> None:
    model = onnx.load(artifacts["int8"][0])
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    by_output = producers(model)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == layers_in_network(torch.nn.Conv2d)
    readers: dict[str, list[tuple[str, int]]] = {}
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            readers.setdefault(name, []).append((node.op_type, position))

    activations = set()
    for node in convolutions:
        image, weight = by_output[node.input[0]], by_output[node.input[1]]
        assert (image.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        pair = by_output[image.input[0]]
        assert pair.op_type == "QuantizeLinear"
        assert pair.input[1:] == image.input[1:]  # one scale, one zero point
        assert constants[pair.input[1]].shape == ()
        activations.add(image.output[0])

        stored, scales = constants[weight.input[0]], constants[weight.input[1]]
        assert stored.dtype == np.int8 and np.abs(stored.astype(int)).max() == 127
        assert scales.dtype == np.float32 and scales.shape == (len(stored),)
        assert {a.name: a.i for a in weight.attribute} == {"axis": 0}
        for bias in node.input[2:]:
            assert constants[bias].dtype == np.float32

    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            assert readers[node.output[0]] == [("DequantizeLinear", 0)]
        if node.op_type == "DequantizeLinear":
            position = 0 if node.output[0] in activations else 1
            assert set(readers[node.output[0]]) == {("Conv", position)}
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = constants[node.input[2]]
            assert zero.dtype == np.int8 and not zero.any()


def test_the_calibration_record_is_of_train(
    artifacts: dict[str, tuple[Path, Manifest]],
) -> None:
    calibration = artifacts["int8"][1].calibration
    assert calibration is not None
    assert (calibration.dataset, calibration.split) == ("toy-street", "train")
    assert (calibration.images, calibration.method) == (3, "mse")
    digest = hashlib.sha256()
    for scene in evenly_spaced("train", 3):
        digest.update(f"{scene.name!r} uint8 {scene.image.shape}\n".encode())
        digest.update(scene.image.tobytes())
    assert calibration.images_sha256 == digest.hexdigest()


def test_calibration_never_reads_val(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phase = ["start"]
    read = []

    class Watched:
        def __init__(self, split: str) -> None:
            self._scenes = open_dataset("toy-street", split, None, SIZE)
            self.name, self.split, self.labels = "toy-street", split, self._scenes.labels

        def __len__(self) -> int:
            return len(self._scenes)

        def __getitem__(self, index: int) -> LabelledImage:
            read.append((phase[-1], self.split))
            return self._scenes[index]

    @contextmanager
    def bar(what: str, steps: int) -> Iterator[Callable[[], None]]:
        phase.append(what)
        yield lambda: None
        phase.append("between")

    monkeypatch.setattr(export.images, "open_dataset", lambda name, split, *_: Watched(split))
    export_onnx(checkpoint, tmp_path / "m.onnx", INT8, progress=bar)
    assert read == [("calibrating", "train")] * 3 + [("comparing with PyTorch", "val")] * 4


def test_int8_without_images_of_its_dataset_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "public.pth"
    torch.save(seeded_network().state_dict(), path)
    with pytest.raises(InputError, match="INT8 needs images of camvid.*--data-dir"):
        export_onnx(path, tmp_path / "m.onnx", INT8, dataset="camvid", progress=no_bar)
    assert list(tmp_path.iterdir()) == [path]


# --- public checkpoints -----------------------------------------------------------------------


def test_a_public_checkpoint_gets_the_constants_of_its_dataset(tmp_path: Path) -> None:
    state = {f"module.{name}": value for name, value in seeded_network(19).state_dict().items()}
    path = tmp_path / "public.pth"
    torch.save({"epoch": 7, "model": state}, path)
    output = tmp_path / "m.onnx"
    spec = ExportSpec(SIZE, check_images=1)
    manifest = export_onnx(path, output, spec, dataset="cityscapes", progress=no_bar)
    assert (manifest.dataset, len(manifest.classes), manifest.ignore) == ("cityscapes", 19, 255)
    assert manifest.preprocessing.mean_rgb == (73.158325, 82.90902, 72.3924)
    assert manifest.agreement is not None
    assert manifest.agreement.images == "1 images of toy-street val"  # no folder was given
    images = noise((1, *SIZE, 3), seed=5)
    centred = images.astype(np.float32) - np.array((73.158325, 82.90902, 72.3924), np.float32)
    with torch.inference_mode():
        logits = seeded_network(19)(torch.from_numpy(centred.transpose(0, 3, 1, 2).copy()))
    assert (masks_of(output, images) == logits.argmax(1).numpy()).mean() >= 0.999


def test_a_public_checkpoint_needs_a_fitting_dataset(tmp_path: Path) -> None:
    path = tmp_path / "public.pth"
    torch.save(seeded_network().state_dict(), path)
    with pytest.raises(InputError, match="add --dataset camvid"):
        export_onnx(path, tmp_path / "m.onnx", FP32, progress=no_bar)
    with pytest.raises(InputError, match="predicts 11 classes; expected 19"):
        export_onnx(path, tmp_path / "m.onnx", FP32, dataset="cityscapes", progress=no_bar)
    assert list(tmp_path.iterdir()) == [path]


# --- failures ---------------------------------------------------------------------------------


def kept(folder: Path) -> Path:
    """An older artifact that no failure may touch."""
    path = folder / "m.onnx"
    path.write_bytes(b"an older artifact")
    return path


def is_untouched(path: Path) -> bool:
    return list(path.parent.iterdir()) == [path] and path.read_bytes() == b"an older artifact"


def test_too_little_agreement_keeps_the_old_file(checkpoint: Path, tmp_path: Path) -> None:
    output = kept(tmp_path)
    spec = ExportSpec(SIZE, "int8", calibration_images=1, check_images=1, minimum_agreement=0.9999)
    with pytest.raises(BuildError, match=r"agrees with PyTorch on \d+\.\d+ %.*at least 99\.99 %"):
        export_onnx(checkpoint, output, spec, progress=no_bar)
    assert is_untouched(output)


def test_an_invalid_graph_is_not_written(
    checkpoint: Path,
    artifacts: dict[str, tuple[Path, Manifest]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = onnx.load(artifacts["fp32"][0])
    broken.graph.node[5].input[0] = "a tensor that nobody writes"
    monkeypatch.setattr("export.onnx_export.contract_graph", lambda *_: broken)
    output = kept(tmp_path)
    with pytest.raises(BuildError, match="not valid ONNX") as caught:
        export_onnx(checkpoint, output, FP32, progress=no_bar)
    assert "\n" not in str(caught.value)
    assert is_untouched(output)


@pytest.mark.parametrize(
    ("failure", "seen"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "No space left on device"), InputError),
    ],
)
def test_an_interrupted_write_leaves_nothing(
    artifacts: dict[str, tuple[Path, Manifest]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    seen: type[BaseException],
) -> None:
    """Control-C, and a full disk, in the middle of the file."""
    model = onnx.load(artifacts["fp32"][0])

    def half(model: onnx.ModelProto, path: Path, *_: Any, **__: Any) -> None:
        content = model.SerializeToString()
        Path(path).write_bytes(content[: len(content) // 2])
        raise failure

    monkeypatch.setattr(onnx, "save", half)
    output = kept(tmp_path)
    with pytest.raises(seen):
        save_onnx(model, output)
    assert is_untouched(output)
    with pytest.raises(seen):
        save_onnx(model, tmp_path / "new.onnx")
    assert is_untouched(output)


@pytest.mark.parametrize("size", [(60, 96), (64, 4), (0, 0)])
def test_an_impossible_size_names_a_possible_one(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="multiples of 8; the nearest is") as caught:
        ExportSpec(size)
    nearest = str(caught.value).rsplit(" ", 1)[1].split("x")
    ExportSpec((int(nearest[0]), int(nearest[1])))


def test_the_checkpoint_is_the_one_that_was_seeded(checkpoint: Path) -> None:
    """The reference of these tests and the file are the same network."""
    saved = load_checkpoint(checkpoint).network().state_dict()
    for name, value in seeded_network().state_dict().items():
        assert torch.equal(saved[name], value), name
