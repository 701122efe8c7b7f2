"""What a run measures: labels, facts, files as they are, and what is refused before any writing."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from bench.backends.file_backend import file_recipe
from bench.candidates import Asked, Candidate, candidates, dataset_of, default_size
from bench.cli.main import bench_command
from bench.record import Setting
from dabnet.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from dabnet.data.labels import LabelSet
from dabnet.device import Device
from dabnet.errors import BackendUnavailable, DabnetError, InputError
from dabnet.files import sha256_of_file
from dabnet.given import Given
from dabnet.models import UNIT
from dabnet.runtime.ort.runner import OnnxRuntimeRunner
from tests.support.contract_graph import CLASSES, HEIGHT, WIDTH, contract_manifest, write_contract
from tests.support.contract_variants import write_raw
from tests.support.engine_files import images
from tests.support.tiny_network import TinyNet, register

SIZE = (HEIGHT, WIDTH)
NAMES, PALETTE = contract_manifest().classes, contract_manifest().palette
FLOATS = Given(mean=(0.0, 0.0, 0.0))  # the raw graph subtracts its mean itself


def write_tiny(path: Path, classes: int, seed: int, stage: str = "whole") -> Path:
    torch.manual_seed(seed)
    labels = LabelSet(NAMES[:classes], PALETTE[:classes], 255)
    state = TinyNet(classes).state_dict()
    path.parent.mkdir(exist_ok=True)
    recipe = {"stage": stage}
    save_checkpoint(Checkpoint("tiny", state, "folder", labels, UNIT, recipe=recipe), path)
    return path


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Checkpoints of a small network, an ONNX file of ours, and one of another tool."""
    register(monkeypatch)
    for number, name in enumerate(("a/best.pth", "b/best.pth", "other.pth")):
        write_tiny(tmp_path / name, 3 if name == "other.pth" else CLASSES, number)
    write_tiny(tmp_path / "encoder.pth", CLASSES, 3, "encoder")
    shutil.copy(tmp_path / "a/best.pth", tmp_path / "copy.pth")
    write_contract(tmp_path).rename(tmp_path / "own.onnx")
    for path in (write_raw(tmp_path), write_contract(tmp_path)):
        model = onnx.load(str(path))
        del model.metadata_props[:]
        onnx.save(model, str(path.with_name("raw.onnx" if path.stem == "raw" else "bytes.onnx")))
    (tmp_path / "classes.txt").write_text("\n".join(map("color {}".format, range(CLASSES))))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*files: str, onnx: tuple[str, ...] = (), **more: Any) -> tuple[Candidate, ...]:
    known: dict[str, Any] = {"networks": (), "given": Given(), "sizes": (SIZE,)} | more
    return candidates(Asked([*map(Path, files)], [*map(Path, onnx)], **known))


def test_each_has_a_label_its_size_and_its_work(folder: Path) -> None:
    files = ("a/best.pth", "b/best.pth", "own.onnx")
    every = found(*files, onnx=("raw.onnx",), networks=("tiny",), given=FLOATS)
    subjects = [candidate.subject for candidate in every]
    labels = ["a-best", "b-best", "own", "raw", "tiny-untrained"]
    assert [subject.label for subject in subjects] == labels
    assert [subject.model for subject in subjects] == [
        "tiny",
        "tiny",
        "contract",
        "unknown",
        "tiny",
    ]
    assert subjects[0].sha256 == sha256_of_file(folder / "a/best.pth")
    # 8 filters of 5x5 over 8x16 places and 8x16 times the head: torch counts what the sums give.
    assert subjects[0].parameters == (8 * 75 + 8) + (8 + 1) * CLASSES
    assert subjects[0].multiply_adds == {"32x64": 8 * 16 * (8 * 75 + 8 * CLASSES)}
    assert subjects[2].parameters == subjects[3].parameters
    assert subjects[2].multiply_adds == subjects[3].multiply_adds != {}
    assert [c.rows(("pytorch-fp32",))[0] for c in every[1:4]] == [
        *("pytorch-fp32", "onnxruntime-file", "onnxruntime-file")
    ]
    assert default_size([folder / "a/best.pth", folder / "own.onnx"]) == SIZE
    assert dataset_of(every, Given()) == "folder" and dataset_of(every, Given("voc")) == "voc"
    (alone,) = found("a/best.pth")
    assert alone.subject.label == "tiny"


def test_random_weights_are_drawn_once(folder: Path) -> None:
    (candidate,) = found(networks=("enet",))
    assert len(candidate.labels.classes) == 11 and dataset_of([candidate], Given()) == "toy-street"
    drawn = candidate.drawn(folder, "voc")
    assert drawn == candidate.drawn(folder, "voc") and drawn.subject.untrained
    assert drawn.subject.sha256 == sha256_of_file(drawn.path)
    drawn.path.write_bytes(drawn.path.read_bytes()[:-100])
    checkpoint = load_checkpoint(candidate.drawn(folder, "voc").path)
    assert checkpoint.dataset == "voc"  # its images calibrate INT8
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        logits = checkpoint.network()(image)
    assert 1e-3 < float(logits.std()) < 1e3  # neither vanished nor grown


def test_a_file_of_floats_and_logits_takes_images_and_gives_masks(folder: Path) -> None:
    (raw,) = found(onnx=("raw.onnx",), given=replace(FLOATS, classes=folder / "classes.txt"))
    assert raw.manifest is not None
    asked = (raw.path, raw.manifest, Setting(SIZE), Device(), 1)
    recipe = file_recipe(*asked)
    with closing(OnnxRuntimeRunner("own.onnx", threads=1)) as ours:
        expected = ours.infer(images(3))
    with closing(recipe.opened()) as runner:
        assert np.array_equal(runner.infer(images(3)), expected)
        assert runner.info.shape == (1, HEIGHT, WIDTH, 3)
        assert runner.info.notes[-1] == "preprocessing and argmax in numpy"
        runner.stage([images(3)])
        runner.launch(0)
        with pytest.raises(InputError, match="uint8"):
            runner.infer(images(3).astype(np.float32))
    for setting in (Setting((HEIGHT, WIDTH + 8)), Setting(SIZE, batch=2)):
        with pytest.raises(BackendUnavailable, match=r"it takes images of 1x32x64 \(batch"):
            file_recipe(raw.path, raw.manifest, setting, Device(), 1)


REFUSED: dict[str, tuple[tuple[str, ...], dict[str, Any], str]] = {
    "other classes": (
        ("a/best.pth", "other.pth"),
        {},
        "'other.pth' has 3 classes, and 'a/best.pth' other 5; expected the same classes",
    ),
    "twice": (("a/best.pth", "a/best.pth"), {}, "'a/best.pth' and 'a/best.pth' are the same file"),
    "a copy": (("copy.pth", "a/best.pth"), {}, "'copy.pth' and 'a/best.pth' are the same file"),
    "an unknown network": ((), {"networks": ("unet",)}, "unknown model 'unet'; expected one of"),
    "a network twice": ((), {"networks": ("tiny", "tiny")}, "--model tiny twice"),
    "a checkpoint": (
        (),
        {"onnx": ("a/best.pth",)},
        "--onnx 'a/best.pth', which is no ONNX file; expected",
    ),
    "floats": (("a/best.pth", "raw.onnx"), {}, "carries no manifest; .* describe it with --mean"),
    "no classes": (("bytes.onnx",), {}, "describe it with --dataset or --classes"),
    "a mean for bytes": (
        ("a/best.pth", "bytes.onnx"),
        {"given": FLOATS},
        "--mean for 'bytes.onnx', which takes uint8 images",
    ),
    "a mean for ours": (("a/best.pth", "b/best.pth"), {"given": FLOATS}, "--mean for 'a/best.pth'"),
    "dilations of a file": (
        ("a/best.pth", "raw.onnx"),
        {"given": replace(FLOATS, dilations=(2, 2))},
        "--dilations for 'a/best.pth'; expected a file that does not say it",
    ),
    "a void output of a network": (
        (),
        {"networks": ("tiny",), "given": Given(void="last")},
        "--void for a network",
    ),
    "an encoder alone": (("encoder.pth",), {}, "whose encoder alone is trained"),
    "a size": (("a/best.pth",), {"sizes": ((34, 64),)}, "image size 34x64; expected .* of 4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_compared_is_one_line(folder: Path, case: str) -> None:
    files, more, said = REFUSED[case]
    with pytest.raises(DabnetError, match=said) as caught:
        found(*files, **more)
    assert "\n" not in str(caught.value)


def test_nothing_is_written_before_a_fault(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    for words, said in (
        (["a/best.pth", "other.pth"], "has 3 classes"),
        ([], "nothing to measure; expected a FILE, --onnx FILE or --model NAME"),
    ):
        with pytest.raises(InputError, match=said):
            bench_command.main(["run", *words, "--size", "32x64"], standalone_mode=False)
    assert sorted(folder.rglob("*")) == before
