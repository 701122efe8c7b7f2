"""Comparison of two artifacts: numbers against their definitions, and artifacts on the disk."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

from dabnet.checkpoint import load_checkpoint
from dabnet.data.dataset import Uint8Array
from dabnet.data.images import ImageFolder, SizedImages
from dabnet.errors import ArtifactError, InputError
from dabnet.given import Given
from dabnet.models.image_to_mask import ImageToMask
from dabnet.runtime.manifest import Manifest
from dabnet.runtime.ort.runner import OnnxRuntimeRunner
from export.onnx_export import export_onnx
from export.spec import ExportSpec
from export.verify.masks import verify
from export.verify.report import DIFFERENT, differing, save_worst
from export.verify.sides import Results, Side, common_size
from tests.support.contract_graph import CLASSES, add_manifest, contract_manifest, write_contract
from tests.support.listed_images import sized_images
from tests.support.seeded_checkpoint import (
    PREPROCESSING,
    SIZE,
    no_bar,
    noise,
    write_checkpoint,
)


class Told(Side):
    """A side that is what the test says, and gives ``masks`` and ``logits`` one after the other."""

    def __init__(
        self,
        name: str,
        shape: tuple[int, int, int] = (1, 16, 24),
        masks: np.ndarray | None = None,
        logits: np.ndarray | None = None,
        confidences: np.ndarray | None = None,
        **changes: object,
    ) -> None:
        manifest = contract_manifest()
        self.path, self.kind, self.precision = Path(name), "onnx", "fp32"
        self.classes, self.palette = manifest.classes, manifest.palette
        self.shape, self.size, self.stride = shape, shape[1:], 8
        self._masks, self._logits, self._place = masks, logits, itertools.count()
        self._confidences = confidences
        vars(self).update(changes)

    def run(self, image: Uint8Array) -> Results:
        assert self._masks is not None
        index = next(self._place)
        others = (self._logits, self._confidences)
        return Results(self._masks[index], *(None if x is None else x[index] for x in others))

    def record(self) -> dict[str, str]:
        return {"file": str(self.path)}


def listed(masks: np.ndarray, logits: np.ndarray | None) -> Told:
    return Told("x.onnx", masks=masks, logits=logits)


def some_images(count: int) -> SizedImages:
    return sized_images([(f"i{n}", np.zeros((16, 24, 3), np.uint8)) for n in range(count)])


def two_sets_of_masks() -> tuple[np.ndarray, np.ndarray]:
    """Masks (6, 16, 24) that differ in a tenth of the pixels, but for image 3."""
    random = np.random.default_rng(2)
    a = random.integers(0, CLASSES - 1, (6, 16, 24), np.uint8)  # the last class never occurs
    b = np.where(random.random(a.shape) < 0.1, (a + 1) % (CLASSES - 1), a).astype(np.uint8)
    b[3] = a[3]
    return a, b


def test_agreement_is_that_of_its_definition() -> None:
    a, b = two_sets_of_masks()
    found, kept = verify(listed(a, None), listed(b, None), some_images(6), worst=2)
    shares = (a == b).reshape(6, -1).mean(1)
    assert found.shares == pytest.approx(shares)
    assert found.agreement == pytest.approx(shares.mean())
    assert (found.worst.name, found.worst.agreement) == (f"i{shares.argmin()}", shares.min())
    assert [p.name for p in kept] == [f"i{i}" for i in np.argsort(shares, kind="stable")[:2]]
    interval = found.interval()
    assert interval is not None
    assert shares.min() < interval[0] < shares.mean() < interval[1] <= 1


def test_iou_of_each_class_is_that_of_its_definition() -> None:
    a, b = two_sets_of_masks()
    found, _ = verify(listed(a, None), listed(b, None), some_images(6))
    record = found.record()
    for index, entry in enumerate(record["classes"]):
        either, both = ((a == index) | (b == index)).sum(), ((a == index) & (b == index)).sum()
        assert entry["iou"] == (pytest.approx(both / either) if either else None)
        assert (entry["pixels_a"], entry["pixels_b"]) == ((a == index).sum(), (b == index).sum())
    assert record["classes"][-1]["iou"] is None


def test_difference_of_logits_is_that_of_its_definition() -> None:
    random = np.random.default_rng(2)
    masks = np.zeros((6, 16, 24), np.uint8)
    a = random.normal(size=(6, CLASSES, 2, 3)).astype(np.float32)
    b = a + random.normal(scale=0.01, size=a.shape).astype(np.float32)
    found, _ = verify(listed(masks, a), listed(masks, b), some_images(6))
    assert found.logits is not None
    apart = np.abs(b.astype(np.float64) - a)
    assert found.logits.max_abs == apart.max()
    assert found.logits.image == f"i{apart.reshape(6, -1).max(1).argmax()}"
    noise_power = np.square(apart).sum() / np.square(a.astype(np.float64)).sum()
    assert found.logits.sqnr_db == pytest.approx(-10 * np.log10(noise_power))


def test_difference_of_confidences_is_that_of_its_definition() -> None:
    random = np.random.default_rng(2)
    masks = np.zeros((6, 16, 24), np.uint8)
    a = random.integers(0, 256, (6, 16, 24), np.uint8)
    b = np.clip(a + random.integers(-2, 4, a.shape), 0, 255).astype(np.uint8)
    b[4, 3, 2] = 255 - a[4, 3, 2]
    sides = (Told("x.onnx", masks=masks, confidences=values) for values in (a, b))
    found, _ = verify(*sides, some_images(6))
    apart = np.abs(a.astype(int) - b)
    assert found.confidence is not None
    assert found.confidence.largest == apart.max() > 3
    assert found.confidence.percentile_999 == np.sort(apart.ravel())[-(apart.size // 1000) - 1] == 3
    assert found.confidence.within_2 == pytest.approx((apart <= 2).mean())
    assert found.record()["confidence"]["largest"] == apart.max()
    alone, _ = verify(Told("x", masks=masks, confidences=a), listed(masks, None), some_images(6))
    assert alone.confidence is None and alone.record()["confidence"] is None


def test_what_the_logits_cannot_tell() -> None:
    masks = np.zeros((1, 16, 24), np.uint8)
    logits = np.ones((1, CLASSES, 2, 3), np.float32)
    found, _ = verify(listed(masks, logits), listed(masks, logits), some_images(1))
    assert found.logits is not None
    assert (found.logits.max_abs, found.logits.sqnr_db, found.interval()) == (0.0, None, None)
    found, _ = verify(listed(masks, logits), listed(masks, None), some_images(1))
    assert (found.logits, found.no_logits) == (None, "no logits can be read from x.onnx")
    found, _ = verify(listed(masks, logits), listed(masks, logits[..., :2]), some_images(1))
    assert found.logits is None
    assert "(5, 2, 3)" in found.no_logits
    with pytest.raises(ArtifactError, match="NaN or infinite logits on 'i0'"):
        verify(listed(masks, logits), listed(masks, logits * np.nan), some_images(1))


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint, its ONNX file, and one whose classifier has another weight."""
    folder = tmp_path_factory.mktemp("artifacts")
    checkpoint = write_checkpoint(folder)
    exported = folder / "fp32.onnx"
    export_onnx(checkpoint, exported, ExportSpec(SIZE, check_images=1), progress=no_bar)
    model = onnx.load(exported)
    (weight,) = (t for t in model.graph.initializer if t.name.endswith("classifier.0.conv.weight"))
    values = numpy_helper.to_array(weight).copy()
    values[2, 100] += 1.0
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, folder / "faulty.onnx")
    return {"checkpoint": checkpoint, "onnx": exported, "faulty": folder / "faulty.onnx"}


def opened(path: Path, size: tuple[int, int] = SIZE) -> Side:
    side = Side(path)
    side.load(size)
    return side


def test_what_is_said_of_a_public_checkpoint_is_not_said_of_ours(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    """One set of options speaks for the file that needs it; the other side carries its own."""
    ours, public = artifacts["checkpoint"], tmp_path / "public.pth"
    state = load_checkpoint(ours).state
    torch.save({"state_dict": {f"net.{name}": x for name, x in state.items()}}, public)
    given = Given("toy-street", mean=PREPROCESSING.mean_rgb)
    sides = Side(public, given), Side(ours, given)
    assert [side.is_described for side in sides] == [True, False]
    for side in sides:
        side.load(SIZE)
    images = sized_images([("noise", noise((1, *SIZE, 3), 1)[0])])
    assert verify(*sides, images)[0].agreement == 1
    with pytest.raises(InputError, match="was trained on toy-street"):
        Side(ours, Given("camvid"))


def test_a_checkpoint_and_its_onnx_file(artifacts: dict[str, Path]) -> None:
    images = sized_images([(f"n{seed}", noise((1, *SIZE, 3), seed)[0]) for seed in range(3)])
    found, _ = verify(opened(artifacts["checkpoint"]), opened(artifacts["onnx"]), images)
    assert found.agreement > 0.999
    assert found.logits is not None
    assert found.logits.max_abs < 1e-3
    assert found.logits.sqnr_db is not None
    assert found.logits.sqnr_db > 90  # FP32's own rounding
    assert (found.a["kind"], found.b["kind"], found.size) == ("checkpoint", "onnx", SIZE)

    damaged, kept = verify(opened(artifacts["onnx"]), opened(artifacts["faulty"]), images, worst=1)
    assert damaged.agreement < 0.99
    assert damaged.logits is not None
    assert damaged.logits.max_abs > 0.1
    assert kept[0].agreement == damaged.worst.agreement


def test_logits_are_those_behind_the_mask(artifacts: dict[str, Path]) -> None:
    """Found in a graph whose manifest does not name them, and equal to the network's own."""
    image = noise((1, *SIZE, 3), 9)[0]
    checkpoint = load_checkpoint(artifacts["checkpoint"])
    module = ImageToMask(checkpoint.network(), checkpoint.preprocessing).eval()
    with torch.no_grad():
        expected = module.network.coarse_logits(module.preprocess(torch.from_numpy(image[None])))
    mask, logits, _ = opened(artifacts["checkpoint"]).run(image)
    np.testing.assert_array_equal(logits, expected[0].numpy())
    mask_onnx, logits_onnx, _ = opened(artifacts["onnx"]).run(image)
    assert logits_onnx is not None
    np.testing.assert_allclose(logits_onnx, expected[0].numpy(), atol=1e-3)
    assert mask.shape == mask_onnx.shape == SIZE


def test_float_images_logits_and_sides_that_a_call_chooses(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    """Whatever an artifact takes and gives, its masks are compared at the pixels of the image."""
    image = noise((1, *SIZE, 3), 9)[0]
    expected, logits, _ = opened(artifacts["onnx"]).run(image)
    for changes in (
        {"input": "float", "head": "logits", "batch": 2},
        {"dynamic_size": True, "dynamic_batch": True},
    ):
        path = tmp_path / "other.onnx"
        spec = ExportSpec(SIZE, check_images=1, **changes)
        export_onnx(artifacts["checkpoint"], path, spec, progress=no_bar)
        assert common_size(Side(path), Side(artifacts["onnx"]), None) == SIZE
        mask, found, _ = opened(path).run(image)
        assert (mask == expected).mean() > 0.999
        assert logits is not None
        np.testing.assert_allclose(found, logits, atol=1e-3)


def test_a_mask_that_is_no_class(tmp_path: Path) -> None:
    path = write_contract(tmp_path)
    size = common_size(Side(path), Side(path), None)
    mask, logits, _ = opened(path, size).run(noise((1, *size, 3), 1)[0])
    assert logits is not None
    assert (mask.shape, logits.shape) == (size, (CLASSES, 16, 32))
    model = onnx.load(path)
    manifest = Manifest.from_json(model.metadata_props[0].value, "contract")
    two = replace(manifest, classes=manifest.classes[:2], palette=manifest.palette[:2])
    add_manifest(model, two)
    onnx.save(model, path)
    with pytest.raises(ArtifactError, match="predicts class .*; expected 0 to 1"):
        opened(path, size).run(noise((1, *size, 3), 1)[0])


@pytest.mark.parametrize(
    ("a", "b", "wanted", "size"),
    [
        (Told("a"), Told("b", shape=(4, 16, 24)), None, (16, 24)),
        (Told("a", shape=(-1, -1, -1), size=(32, 32)), Told("b"), None, (16, 24)),
        (Told("a", shape=(-1, -1, -1), size=(32, 32)),) * 2 + ((64, 8), (64, 8)),
        (Told("a", shape=(-1, -1, -1), size=(32, 32)),) * 2 + (None, (32, 32)),
        (Told("a", shape=(-1, -1, -1), size=None),) * 2 + (None, (512, 1024)),
        (Told("a"), Told("b", shape=(1, 16, 32)), None, "'a' takes 16x24 and 'b' takes"),
        (Told("a"), Told("b"), (8, 8), "--size 8x8; expected 16x24, the only size that 'b' takes"),
        (Told("a", shape=(1, -1, -1), size=None),) * 2 + ((9, 8), "multiples of 8"),
        (Told("a"), Told("b", classes=("x", "y")), None, "5 classes .* 2 classes"),
        (
            Told("a"),
            Told("b", classes=tuple(f"class {i}" for i in (1, 0, 2, 3, 4))),
            None,
            "the same classes in the same order",
        ),
    ],
)
def test_the_size_at_which_two_artifacts_meet(
    a: Side, b: Side, wanted: tuple[int, int] | None, size: tuple[int, int] | str
) -> None:
    if isinstance(size, str):
        with pytest.raises(InputError, match=size):
            common_size(a, b, wanted)
    else:
        assert common_size(a, b, wanted) == size


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    (tmp_path / "b" / "deep").mkdir(parents=True)
    picture = noise((1, 32, 48, 3), 1)[0]
    for name in ("z.PNG", "b/deep/y.bmp", ".hidden.png", "a.png"):
        Image.fromarray(picture).save(tmp_path / name, format="BMP" if "bmp" in name else "PNG")
    (tmp_path / "notes.txt").write_text("no picture")
    Image.fromarray(picture).convert("L").save(tmp_path / "c.jpg")
    found = SizedImages.first(ImageFolder(tmp_path), (32, 48))
    assert [item.name for item in found] == ["a.png", "b/deep/y.bmp", "c.jpg", "z.PNG"]
    assert len(found) == 4
    assert found.description == f"4 images of {tmp_path}"
    for item in found:
        assert (item.image.dtype, item.image.shape) == (np.uint8, (32, 48, 3))
        assert (item.label == item.native_label).all() and set(item.label.flat) == {255}
        if not item.name.endswith("jpg"):
            np.testing.assert_array_equal(item.image, picture)
    halved = Image.fromarray(picture).resize((24, 16), Image.Resampling.BILINEAR)
    (first,) = SizedImages.first(ImageFolder(tmp_path), (16, 24), 1)
    np.testing.assert_array_equal(first.image, np.asarray(halved))
    with pytest.raises(InputError, match=r"no image in .*deep2.*\.png"):
        (tmp_path / "deep2").mkdir()
        ImageFolder(tmp_path / "deep2")
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="a.png"):
        list(found)


def test_pictures_show_where_the_masks_differ(tmp_path: Path) -> None:
    a = np.zeros((1, 16, 24), np.uint8)
    b = a.copy()
    b[0, 3:5, 10] = 1
    images = sized_images([("sub/scene 1.png", noise((1, 16, 24, 3), 1)[0])])
    _, kept = verify(listed(a, None), listed(b, None), images, worst=3)
    shown = differing(kept[0].image, a[0], b[0])
    coloured = (shown != shown[..., :1]).any(-1)
    np.testing.assert_array_equal(coloured, a[0] != b[0])
    assert tuple(shown[4, 10]) == DIFFERENT
    (path,) = save_worst(Told("a.onnx"), Told("b.onnx"), kept, tmp_path)
    assert path.name == "worst_01_sub_scene_1.png"
    sheet = np.asarray(Image.open(path))
    assert (sheet == DIFFERENT).all(-1).sum() == 2
    assert sheet.shape[1] == 2 * 24


@pytest.mark.parametrize(("device", "asked"), [(None, "cpu"), ("cpu", "cpu"), ("cuda:1", "cuda:1")])
def test_where_an_onnx_file_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str | None, asked: str
) -> None:
    """On the CPU unless asked for otherwise; logits are from the CPU, like the masks they match."""
    opened: list[str] = []

    class OnCpu(OnnxRuntimeRunner):
        def __init__(self, path: Path, device: str, **options: object) -> None:
            opened.append(device)
            super().__init__(path, "cpu", **options)  # type: ignore[arg-type]

    monkeypatch.setattr("dabnet.runtime.ort.runner.OnnxRuntimeRunner", OnCpu)
    side = Side(write_contract(tmp_path), device=device)
    side.load((32, 64))
    mask, logits, _ = side.run(noise((1, 32, 64, 3), 0)[0])
    assert opened == [asked]
    assert mask.shape == (32, 64)
    assert (logits is not None) is (asked == "cpu")
    side.close()


def test_a_checkpoint_on_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="--device cuda:1, but PyTorch sees no CUDA device"):
        Side(write_checkpoint(tmp_path), device="cuda:1").load(SIZE)
