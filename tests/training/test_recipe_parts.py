"""What a recipe may add to the published training, against its definition and resumed."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dabnet.checkpoint import load_checkpoint, save_checkpoint
from dabnet.data.camvid import CamVid
from dabnet.data.labels import LabelSet
from dabnet.errors import InputError
from dabnet.interrupt import Stop
from dabnet.models import build_model
from dabnet.preprocessing import Preprocessing
from dabnet.training.auxiliary import shrunk
from dabnet.training.learner import Learner
from dabnet.training.processes import Processes
from dabnet.training.teacher import open_teacher
from export.onnx_export import export_onnx
from export.spec import ExportSpec
from tests.support.seeded_checkpoint import no_bar
from tests.support.training_runs import (
    PER_EPOCH,
    RECIPE,
    assert_same_run,
    command,
    in_call,
    log_of,
    run,
    sends,
    spec_for,
)

CLASSES, IGNORE, STEPS = 3, 9, 5
WEIGHTS = torch.tensor([1.0, 2.0, 4.0])
MEAN = Preprocessing((100.0, 110.0, 120.0))


def learner(folder: Path, teacher: Any = None, **recipe: Any) -> Learner:
    path = Path("teacher.pth") if teacher else None
    spec = spec_for(folder, recipe=replace(RECIPE, **recipe), teacher=path)
    return Learner(spec, CLASSES, IGNORE, MEAN, WEIGHTS, STEPS, Processes(), teacher=teacher)


def export(checkpoint: Path, path: Path, size: tuple[int, int], **fields: Any) -> None:
    spec = ExportSpec(size, check_images=1, **fields)
    export_onnx(checkpoint, path, spec, progress=no_bar)


def batch() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 32, 40, 3), generator=random, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (2, 32, 40), generator=random, dtype=torch.uint8)
    labels[:, :5] = IGNORE
    return pixels, labels


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels.long(), WEIGHTS, ignore_index=IGNORE)


@pytest.mark.parametrize(
    "part",
    ["colours", "teacher"]
    + [pytest.param(part, marks=pytest.mark.slow) for part in ("auxiliary", "cosine", "norms")],
)
def test_a_stopped_run_with_it_continues_exactly(
    tree: Path, whole: Path, tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    added: dict[str, Any] = {
        "auxiliary": {"auxiliary": 0.4},
        "colours": {"colour_jitter": 0.4},
        "cosine": {"schedule": "cosine"},
        "norms": {"norm_decay": False, "weight_decay": 0.01},
        "teacher": {"teacher_share": 0.5},
    }[part]
    teacher = whole / "best.pth" if part == "teacher" else None
    recipe = replace(RECIPE, **added)
    unbroken = spec_for(tmp_path / "unbroken", recipe=recipe, teacher=teacher)
    assert run(tree, unbroken).finished
    stopped = replace(unbroken, output=tmp_path / "stopped")
    with monkeypatch.context() as patch:
        in_call(patch, PER_EPOCH + 1, sends(signal.SIGINT))
        result = run(tree, stopped)
    assert not result.finished
    assert run(tree, replace(stopped, resume=result.last)).finished
    assert_same_run(stopped.output, unbroken.output)
    # It was used; and what runs is the plain network.
    ours, plain = (load_checkpoint(folder / "last.pth") for folder in (unbroken.output, whole))
    assert ours.state.keys() == plain.state.keys()
    assert not torch.equal(*(c.state["classifier.0.conv.weight"] for c in (ours, plain)))
    assert len(log_of(unbroken.output)) == RECIPE.max_epochs
    if teacher:
        other = replace(stopped, resume=result.last, teacher=whole / "last.pth")
        with pytest.raises(InputError, match="another file than .*best.pth that the run began"):
            run(tree, other)
        with pytest.raises(InputError, match="no file at .*gone.pth"):
            run(tree, replace(other, teacher=tmp_path / "gone.pth"))


def test_the_auxiliary_loss_is_that_of_its_heads(tmp_path: Path) -> None:
    trained, plain = learner(tmp_path, auxiliary=0.4), learner(tmp_path)
    pixels, labels = batch()
    assert trained.inner is not None
    heads = list(trained.inner.heads)
    before = [(head.weight.detach().clone(), head.bias.detach().clone()) for head in heads]
    seen: dict[str, Tensor] = {}
    for name in ("DAB_Block_1", "DAB_Block_2"):
        plain.network.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: seen.update({name: out})
        )
    logits = plain.network(plain.segmenter.preprocess(pixels))
    expected = cross_entropy(logits, labels)
    for feature, (weight, bias), every in zip(seen.values(), before, (4, 8), strict=True):
        small = labels[:, every // 2 :: every, every // 2 :: every]
        expected = expected + 0.4 * cross_entropy(F.conv2d(feature, weight, bias), small)
    loss, _ = trained.step(0, pixels, labels, Stop()).tolist()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    assert all(not torch.equal(h.weight, w) for h, (w, _) in zip(heads, before, strict=True))


def test_labels_are_shrunk_to_their_middles() -> None:
    labels = torch.arange(64).view(1, 8, 8)
    assert shrunk(labels, (2, 2)).flatten().tolist() == [18, 22, 50, 54]


def test_the_loss_with_a_teacher_is_half_of_each(tmp_path: Path) -> None:
    known = torch.randn(2, CLASSES, 32, 40)
    trained = learner(tmp_path, lambda _: known, teacher_share=0.25)
    plain = learner(tmp_path)
    pixels, labels = batch()
    logits = plain.network(plain.segmenter.preprocess(pixels)).detach()
    apart = (known.softmax(1) * (known.log_softmax(1) - logits.log_softmax(1))).sum(1)
    expected = 0.75 * cross_entropy(logits, labels) + 0.25 * apart[labels != IGNORE].mean()
    loss, _ = trained.step(0, pixels, labels, Stop()).tolist()
    assert loss == pytest.approx(float(expected), rel=1e-5)


def test_a_teacher_is_a_checkpoint_or_an_onnx_file(tree: Path, whole: Path, tmp_path: Path) -> None:
    checkpoint, file = whole / "best.pth", tmp_path / "teacher.onnx"
    export(checkpoint, file, (32, 40), head="logits")
    pixels, _ = batch()
    ours, theirs = (
        open_teacher(path, CamVid(tree, "train"), (32, 40), torch.device("cpu"))(pixels)
        for path in (checkpoint, file)
    )
    assert not ours.requires_grad
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_the_light_of_a_batch_is_that_of_its_parts(tmp_path: Path) -> None:
    whole = learner(tmp_path, colour_jitter=0.4)._light(7, 4)
    parts = []
    for rank in range(2):
        part = learner(tmp_path, colour_jitter=0.4)
        part.processes = Processes(rank, 2)
        parts.append(part._light(7, 2))
    assert torch.equal(whole, torch.cat(parts, 1))
    assert float(whole.abs().max()) < 0.4
    assert not torch.equal(whole, learner(tmp_path, colour_jitter=0.4)._light(8, 4))


def test_weights_of_one_axis_do_not_decay(tmp_path: Path) -> None:
    trained = learner(tmp_path, norm_decay=False)
    decays = {
        id(weight): group["weight_decay"]
        for group in trained.optimiser.param_groups
        for weight in group["params"]
    }
    for name, weight in trained.network.named_parameters():
        convolves = name.endswith("conv.weight")
        assert decays[id(weight)] == (RECIPE.weight_decay if convolves else 0.0), name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--teacher", "gone.pth"], "no file at 'gone.pth'; expected a teacher: a checkpoint or"),
        (["--teacher", "."], "'.' is a directory; expected a teacher"),
        (["--teacher", "{masks}"], "gives masks; expected logits; export it with: --head logits"),
        (["--teacher", "{large}"], "takes images of 64x64; expected the crops, 32x32"),
        (["--teacher", "{other}"], "has the classes a, b, c; expected those of the data set, sky"),
        (["--teacher-share", 0.5], "--teacher-share 0.5 alone; expected both --teacher FILE and"),
        (["--auxiliary", 0.4, "--model", "enet"], "--auxiliary for enet, whose inner features"),
        (["--fold", "nowhere"], "--fold nowhere of camvid train; expected one of two or more"),
        (["--fold", "a", "--split", "test"], "--fold and --split; expected one of them"),
        (["--split", "test", "--eval-every", 1], "--eval-every; expected one of them"),
        (["--resume", "r", "--recipe", "paper"], "--recipe and --resume; expected one of them"),
        (["--colour-jitter", 1], "--colour-jitter 1.0; expected at least 0 and below 1"),
    ],
)
def test_bad_input_is_one_line(
    tree: Path,
    teachers: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    words: list[object],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [str(word).format(**teachers) for word in words]
    size = ["--input-size", "32x32", "--batch-size", 2, "--max-epochs", 1]
    assert command(monkeypatch, "--data-dir", tree, "--output", "run", *size, *given) == 2
    error = capfd.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run" / "last.pth").exists()


@pytest.fixture(scope="module")
def teachers(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files that are no teachers of CamVid crops of 32x32."""
    folder = tmp_path_factory.mktemp("teachers")
    files = {name: folder / f"{name}.onnx" for name in ("masks", "large")}
    export(whole / "best.pth", files["masks"], (32, 32))
    export(whole / "best.pth", files["large"], (64, 64), head="logits")
    colours = {name: (i, i, i) for i, name in enumerate("abc")}
    other = replace(
        load_checkpoint(whole / "best.pth"),
        state=build_model("dabnet", 3).state_dict(),
        labels=LabelSet.of(colours, ignore=9),
        dataset="folder",
    )
    save_checkpoint(other, folder / "other.pth")
    return files | {"other": folder / "other.pth"}


def test_a_fold_trains_without_a_sequence_and_is_scored_on_it(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = (tree / "camvid_train_list.txt").read_text().splitlines()
    folder = tmp_path / "camvid"
    (folder / "train").mkdir(parents=True)
    listed = []
    for number, line in enumerate(lines):
        image, label = (tree / part for part in line.split())
        name = f"{'A' if number % 3 else 'B'}_{number}.png"
        (folder / "train" / name).symlink_to(image)
        listed.append(f"train/{name} {label}")
    (folder / "camvid_train_list.txt").write_text("\n".join(listed))
    words = ["--data-dir", folder, "--input-size", "32x32", "--batch-size", 2, "--max-epochs", 2]
    run_folder = ["--output", tmp_path / "run", "--eval-every", 1, "--fold", "B"]
    assert command(monkeypatch, *words, *run_folder) == 0
    assert "4 training images, 3 validation images" in capfd.readouterr().out
    state = load_checkpoint(tmp_path / "run" / "last.pth").training
    assert (state["split"], state["val_split"]) == ("train without B", "B alone")
    # A finished run is continued with no more than its folder and the data.
    assert command(monkeypatch, "--resume", tmp_path / "run", "--data-dir", folder) == 0
    assert "4 training images, 3 validation images" in capfd.readouterr().out


def test_a_network_knows_what_it_has_trained_on(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also what the weights it starts from have, and a score on that is told to be none."""
    words = ["--data-dir", tree, "--input-size", "32x32", "--batch-size", 2, "--max-epochs", 1]
    first, second = tmp_path / "first", tmp_path / "second"
    told = "trained on camvid trainval, which holds images of val: a score there is no measure"
    assert command(monkeypatch, *words, "--train-type", "trainval", "--output", first) == 0
    said = capfd.readouterr()
    assert told in said.err and "best validation mIoU on images seen in training" in said.out
    assert command(monkeypatch, *words, "--init", first / "best.pth", "--output", second) == 0
    assert told in capfd.readouterr().err
    found = [load_checkpoint(folder / "best.pth").trained_on for folder in (first, second)]
    assert found == [("camvid trainval",), ("camvid trainval", "camvid train")]
    # A teacher's knowledge reaches the student, from a checkpoint and from an artifact.
    artifact = tmp_path / "teacher.onnx"
    export(first / "best.pth", artifact, (32, 32), head="logits")
    for number, teacher in enumerate((first / "best.pth", artifact)):
        output = tmp_path / f"student{number}"
        assert command(monkeypatch, *words, "--teacher", teacher, "--output", output) == 0
        assert told in capfd.readouterr().err
        learned = load_checkpoint(output / "best.pth").trained_on
        assert learned == ("camvid trainval", "camvid train")
    assert command(monkeypatch, *words, "--output", tmp_path / "last") == 0
    assert "trained on" not in capfd.readouterr().err


def test_a_test_split_is_scored_once_after_the_last_epoch(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (tree / "camvid_val_list.txt").read_text()
    (tree / "camvid_test_list.txt").write_text(text)
    words = ["--data-dir", tree, "--input-size", "32x32", "--batch-size", 2, "--max-epochs", 3]
    output = ["--output", tmp_path / "run", "--split", "test"]
    try:
        assert command(monkeypatch, *words, *output) == 0
    finally:
        (tree / "camvid_test_list.txt").unlink()
    scores = [row["val_miou"] for row in log_of(tmp_path / "run")]
    assert scores[:2] == ["", ""]
    assert float(scores[2]) > 0
    best, last = (load_checkpoint(tmp_path / "run" / f"{n}.pth") for n in ("best", "last"))
    assert all(torch.equal(best.state[name], last.state[name]) for name in last.state)
