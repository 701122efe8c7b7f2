"""What a run starts from: weights of other classes, an encoder that was trained before."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dabnet.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from dabnet.data.camvid import CamVid
from dabnet.data.labels import LabelSet
from dabnet.data.toy_street import ToyStreet
from dabnet.errors import DabnetError, InputError
from dabnet.metrics import confusion, mean_iou
from dabnet.models import NETWORKS, UNIT, build_model
from dabnet.preprocessing import Preprocessing
from dabnet.training.recipes import DECODER, ENCODER
from dabnet.training.spec import TrainingSpec
from dabnet.training.start import new_start
from tests.support.training_runs import (
    RECIPE,
    assert_same_run,
    command,
    in_call,
    run,
    sends,
    spec_for,
)

MEAN = Preprocessing((90.0, 100.0, 110.0))


def names(count: int, first: str = "a") -> LabelSet:
    classes = tuple(f"{first}{index}" for index in range(count))
    return LabelSet(classes, tuple((index, 0, 0) for index in range(count)), 255)


def public(path: Path, model: str, classes: int, prefix: str = "") -> dict[str, Tensor]:
    """Write what another trainer would write, and return its tensors."""
    torch.manual_seed(1)
    state = build_model(model, classes).state_dict()
    torch.save({"state_dict": {prefix + name: tensor for name, tensor in state.items()}}, path)
    return state


def spec_of(path: Path, model: str, **changes: Any) -> TrainingSpec:
    return spec_for(path.parent, model=model, init=path, **changes)


def test_of_our_checkpoint_all_but_the_classes_is_taken(tmp_path: Path) -> None:
    file, dilations = tmp_path / "ours.pth", (1, 1, 1, 2, 2, 4, 4, 8, 8)
    state = build_model("dabnet", 5, dilations).state_dict()
    ours = Checkpoint("dabnet", state, "folder", names(5), MEAN, dilations=dilations)
    save_checkpoint(ours, file)

    same = new_start(spec_of(file, "dabnet"), names(5))
    assert (same.note, same.state.keys()) == ("", state.keys())
    for classes, had in ((names(3), "5"), (names(5, "b"), "others")):
        start = new_start(spec_of(file, "dabnet"), classes)
        assert start.note == (
            f"the classifier (classifier.0.conv.weight) is drawn anew for {len(classes.classes)}"
            f" classes; it had {had}"
        )
        assert state.keys() - start.state.keys() == {"classifier.0.conv.weight"}
        assert all(torch.equal(start.state[name], state[name]) for name in start.state)
        assert (start.dilations, start.preprocessing) == (dilations, MEAN)
    with pytest.raises(InputError, match=r"--dilations 2,.* trained with 1,1,1,2,2,4,4,8,8"):
        new_start(spec_of(file, "dabnet", dilations=NETWORKS["dabnet"].dilations), names(5))


@pytest.mark.parametrize(
    ("model", "prefix", "drawn"),
    [
        ("erfnet", "module.", {"encoder.output_conv", "decoder.output_conv"}),
        # Its pyramid has 20 outputs for any number of classes up to 20.
        ("lednet", "", {"encoder.output_conv", "decoder.apn.mid", "decoder.apn.branch1"}),
        ("enet", "net.", {"transposed_conv"}),
    ],
)
def test_a_public_checkpoint_needs_no_description(
    tmp_path: Path, model: str, prefix: str, drawn: set[str]
) -> None:
    file = tmp_path / "public.pth"
    state = public(file, model, 20, prefix)
    start = new_start(spec_of(file, model), names(7))
    missing = state.keys() - start.state.keys()
    assert all(any(name.startswith(part) for part in drawn) for name in missing)
    assert {part for part in drawn for name in missing if name.startswith(part)} == drawn
    assert start.note.endswith("is drawn anew for 7 classes; it had 20")
    assert (start.preprocessing, start.dilations) == (None, ())
    whole = new_start(spec_of(file, model), names(20))
    assert (whole.note, whole.state.keys()) == ("", state.keys())


def test_another_network_is_told_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "public.pth"
    public(file, "lednet", 19)
    with pytest.raises(DabnetError, match=r"is a lednet checkpoint of 19 classes.*lednet$"):
        new_start(spec_of(file, "dabnet"), names(4))
    torch.save({"level1_0.conv.weight": torch.ones(2), "x.F_glo.y": torch.ones(1)}, file)
    with pytest.raises(DabnetError, match="CGNet"):
        new_start(spec_of(file, "dabnet"), names(4))
    state = public(file, "dabnet", 19)
    state["init_conv.0.conv.weight"] = torch.ones(8, 3, 3, 3)
    torch.save(state, file)
    with pytest.raises(DabnetError, match=r"init_conv.0.conv.weight is \[8, 3, 3, 3\] and not"):
        new_start(spec_of(file, "dabnet"), names(4))


def own_folder(folder: Path) -> Path:
    """Drawn scenes as a folder of 4 + 2 images with 3 classes of the user's own."""
    for split, count in (("train", 4), ("val", 2)):
        scenes = ToyStreet(split, (48, 64), length=count)
        for index in range(count):
            for kind, array in (
                ("images", scenes[index].image),
                ("masks", (scenes[index].label % 3).astype(np.uint8)),
            ):
                path = folder / kind / split / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    (folder / "classes.txt").write_text("one\ntwo\nthree\n")
    return folder


def test_fine_tuning_on_own_classes_starts_trained_and_continues_exactly(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    data = own_folder(tmp_path / "photos")
    # No --batch-size: the recipe's 8 is more than there are images. Nor a size of the crops.
    words = ["--dataset", "folder", "--data-dir", data, "--max-epochs", 2, "--lr", 1e-4]
    words += ["--no-tensorboard"]
    start = ["--init", whole / "best.pth", "--output"]
    assert command(monkeypatch, *words, *start, tmp_path / "a") == 0
    shown = capfd.readouterr()
    assert "the classifier (classifier.0.conv.weight) is drawn anew for 3 classes" in shown.err
    assert "  batch_size: 4\n" in shown.out
    assert "  input_size: [48, 64]\n" in shown.out
    before, after = load_checkpoint(whole / "best.pth"), load_checkpoint(tmp_path / "a/last.pth")
    assert (after.dataset, after.labels.classes) == ("folder", ("one", "two", "three"))
    assert after.preprocessing == before.preprocessing
    name = "init_conv.0.conv.weight"
    assert 0 < float((after.state[name] - before.state[name]).abs().max()) < 1e-3

    with monkeypatch.context() as patch:
        in_call(patch, 1, sends(signal.SIGINT))
        assert command(monkeypatch, *words, *start, tmp_path / "b") == 130
    assert command(monkeypatch, *words, "--resume", tmp_path / "b") == 0
    assert_same_run(tmp_path / "b", tmp_path / "a")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--init", "a.pth", "--qat", "b.pth"],
            "--qat b.pth and --init a.pth; expected one of them",
        ),
        (
            ["--stage", "decoder", "--model", "erfnet"],
            "--stage decoder alone; expected --encoder CHECKPOINT",
        ),
        (
            ["--stage", "decoder", "--encoder", "{whole}"],
            "--stage decoder for dabnet, whose encoder has no outputs; expected --model lednet",
        ),
        (["--encoder", "{whole}"], "--encoder {whole} alone; expected --stage"),
        (["--stage", "encoder"], "--stage encoder for dabnet, whose encoder has no outputs"),
        (["--dilations", "2,2"], "--dilations 2,2 for dabnet; expected 9 numbers"),
        (["--init", "{whole}", "--model", "enet"], "--model enet, but '{whole}' is a dabnet"),
    ],
)
def test_options_that_do_not_fit_are_one_line(
    tree: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    best = str(whole / "best.pth")
    given = [word.format(whole=best) for word in words]
    output = tmp_path / "runs" / "new"
    assert command(monkeypatch, "--data-dir", tree, "--output", output, *given) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: " + message.format(whole=best)), error
    assert error.count("\n") == 1
    assert not output.parent.exists()


@pytest.fixture(scope="module")
def encoder(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that trained the encoder of LEDNet alone."""
    output = tmp_path_factory.mktemp("runs") / "encoder"
    recipe = replace(RECIPE, max_epochs=1, stage=ENCODER)
    assert run(tree, spec_for(output, model="lednet", recipe=recipe)).finished
    return output


def test_the_first_stage_trains_the_encoder_on_labels_of_its_size(
    encoder: Path, tree: Path
) -> None:
    trained = load_checkpoint(encoder / "last.pth")
    torch.manual_seed(5)  # the seed of the run
    network = build_model("lednet", 11)
    changed = {n for n, x in network.state_dict().items() if not torch.equal(x, trained.state[n])}
    assert {name.partition(".")[0] for name in changed} == {"encoder"}
    assert "encoder.output_conv.weight" in changed
    with pytest.raises(InputError, match=r"encoder alone .*--stage decoder --encoder"):
        trained.network()

    network.load_state_dict(trained.state)
    matrix = np.zeros((11, 11), np.int64)
    for item in iter(CamVid(tree, "val")):
        image = torch.tensor(item.image[None]).permute(0, 3, 1, 2) / 255
        with torch.inference_mode():
            mask = network.eval().encoder_logits(image).argmax(1)[0].numpy().astype(np.uint8)
        matrix += confusion(mask, item.label[4::8, 4::8], 11)
    assert float(mean_iou(matrix)) == trained.metrics["val_miou"]
    assert trained.preprocessing == UNIT


def test_the_second_stage_trains_everything_from_that_encoder(
    encoder: Path, tree: Path, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, max_epochs=1, stage=DECODER, lr=1e-4)
    spec = spec_for(tmp_path, model="lednet", recipe=recipe, encoder=encoder / "last.pth")
    assert run(tree, spec).finished
    before, after = load_checkpoint(encoder / "last.pth"), load_checkpoint(tmp_path / "last.pth")
    torch.manual_seed(5)
    drawn = build_model("lednet", 11).state_dict()
    for name, tensor in after.state.items():
        moved = float((tensor - (before.state if "encoder" in name else drawn)[name]).abs().max())
        if name.endswith("weight"):
            unused = name == "encoder.output_conv.weight"
            assert (moved == 0) if unused else (0 < moved < 1e-3), name
    after.network()


def test_a_stopped_first_stage_continues_exactly(
    encoder: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, max_epochs=1, stage=ENCODER)
    spec = spec_for(tmp_path, model="lednet", recipe=recipe)
    with monkeypatch.context() as patch:
        in_call(patch, 1, sends(signal.SIGINT))
        assert not run(tree, spec).finished
    assert run(tree, replace(spec, resume=tmp_path / "last.pth")).finished
    assert_same_run(tmp_path, encoder)
    whole = replace(spec, recipe=replace(recipe, stage="whole"), resume=tmp_path / "last.pth")
    with pytest.raises(InputError, match="--stage whole for a run that was started with encoder"):
        run(tree, whole)


def test_the_encoder_of_a_classifier_is_taken(tmp_path: Path) -> None:
    """As imagenet/ of ERFNet's code and imagenet-pretrain/ of LEDNet's write it."""
    file = tmp_path / "classifier.pth"
    state = {
        n: x for n, x in build_model("erfnet", 2).encoder.state_dict().items() if "output" not in n
    }
    named = {f"module.features.encoder.{name}": tensor for name, tensor in state.items()}
    torch.save(
        {"state_dict": named | {"module.classifier.linear.weight": torch.ones(5, 128)}}, file
    )
    recipe = replace(RECIPE, stage=DECODER)
    start = new_start(spec_for(tmp_path, model="erfnet", encoder=file, recipe=recipe), names(4))
    assert start.state.keys() == {f"encoder.{name}" for name in state}
    assert start.note.endswith("is drawn anew for 4 classes")
