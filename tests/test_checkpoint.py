"""Checkpoints: ours and the public forms give the same logits; everything else is one line."""

from __future__ import annotations

import io
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dabnet.checkpoint import (
    Checkpoint,
    Given,
    carries_its_own,
    load_checkpoint,
    save_checkpoint,
)
from dabnet.data.camvid import CAMVID
from dabnet.data.cityscapes import CITYSCAPES
from dabnet.data.labels import LabelSet
from dabnet.errors import ArtifactError, DabnetError, InputError
from dabnet.models import build_model
from dabnet.preprocessing import Preprocessing

torch.set_num_threads(1)

IMAGE = torch.from_numpy(np.random.default_rng(0).uniform(-100, 100, (1, 3, 32, 64))).float()


def trained(classes: int = 11) -> dict[str, Tensor]:
    """Weights whose normalisation has seen data, so that every buffer matters."""
    torch.manual_seed(classes)
    network = build_model("dabnet", classes)
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(2, 3, 32, 64) * 60)
    return network.state_dict()


STATE = trained()
CHECKPOINT = Checkpoint(
    model="dabnet",
    state=STATE,
    dataset="camvid",
    labels=CAMVID,
    preprocessing=Preprocessing((105.0, 108.4, 110.3), (1.0, 0.5, 2.0)),
    epoch=7,
    metrics={"val_miou": 0.61},
    recipe={"lr": 1e-3, "input_size": [32, 64]},
    training={"iteration": 14, "best": None, "optimiser": {"step": torch.tensor(3.0)}},
    dilations=(2, 2, 2, 2, 2, 4, 4, 8, 8),
)


def logits(state: dict[str, Tensor], classes: int = 11) -> Tensor:
    network = build_model("dabnet", classes)
    network.load_state_dict(state)
    with torch.no_grad():
        result: Tensor = network.eval()(IMAGE)
    return result


def saved(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def one_line(action: Callable[[], object], kind: type[DabnetError] = DabnetError) -> str:
    """The message of the one error that ``action`` raises, without a word from torch."""
    with warnings.catch_warnings(record=True) as said, pytest.raises(kind) as caught:
        warnings.simplefilter("always")
        action()
    message = str(caught.value)
    assert not said
    assert "\n" not in message
    assert len(message) < 400
    return message


def test_ours_round_trips_and_needs_no_trust(tmp_path: Path) -> None:
    path = tmp_path / "last.pth"
    save_checkpoint(CHECKPOINT, path)
    loaded = load_checkpoint(path)
    assert replace(loaded, state={}) == replace(CHECKPOINT, state={})
    assert loaded.state.keys() == STATE.keys()
    assert all(torch.equal(loaded.state[name], STATE[name]) for name in STATE)
    dilated = build_model("dabnet", 11, CHECKPOINT.dilations)
    dilated.load_state_dict(STATE)
    with torch.no_grad():
        assert torch.equal(loaded.network()(IMAGE), dilated.eval()(IMAGE))
        assert not torch.equal(loaded.network()(IMAGE), logits(STATE))
    # The original code reads the same file: these two keys are its own.
    content = torch.load(path, weights_only=True)
    assert content["epoch"] == 7
    assert torch.equal(logits(content["model"]), logits(STATE))


def test_ranges_of_activations_are_kept_and_only_where_there_are_any(tmp_path: Path) -> None:
    path = tmp_path / "best.pth"
    save_checkpoint(CHECKPOINT, path)
    assert "activation_ranges" not in torch.load(path, weights_only=True)
    assert load_checkpoint(path).activation_ranges == {}
    names = [name.removesuffix(".weight") for name in STATE if STATE[name].ndim == 4]
    ranges = {name: 0.1 * (1 + number) for number, name in enumerate(names)}
    save_checkpoint(replace(CHECKPOINT, activation_ranges=ranges, dilations=()), path)
    loaded = load_checkpoint(path)
    assert loaded.activation_ranges == ranges
    # It is the float network, as before, and the original code reads it, too.
    with torch.no_grad():
        assert torch.equal(loaded.network()(IMAGE), logits(STATE))
    content = torch.load(path, weights_only=True)
    assert content["format"] == 1
    assert content["model"].keys() == STATE.keys()
    torch.save(content | {"activation_ranges": [1.0]}, path)
    message = one_line(lambda: load_checkpoint(path), ArtifactError)
    assert "activation_ranges: expected an object" in message


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"epoch": 1000, "model": state},
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"epoch": 1, "model": {f"module.{k}": v for k, v in state.items()}},
        lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
    ],
    ids=["epoch-model", "bare", "state_dict", "module-prefix", "no-batch-counters"],
)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_public_forms_give_the_same_logits_bit_for_bit(
    tmp_path: Path, wrap: Callable[[dict[str, Tensor]], object], legacy: bool
) -> None:
    path = tmp_path / "public.pth"
    torch.save(wrap(STATE), path, _use_new_zipfile_serialization=not legacy)
    loaded = load_checkpoint(path, Given("camvid"))
    assert loaded.state.keys() == STATE.keys()
    with torch.no_grad():
        assert torch.equal(loaded.network()(IMAGE), logits(STATE))
    # Public checkpoints were trained with the published constants, given there as BGR.
    assert loaded.preprocessing.mean_rgb == (99.625404, 103.329834, 105.65775)
    assert (loaded.dataset, loaded.labels) == ("camvid", CAMVID)


def test_a_public_cityscapes_checkpoint(tmp_path: Path) -> None:
    state = trained(19)
    torch.save({"epoch": 5, "model": state}, tmp_path / "c.pth")
    loaded = load_checkpoint(tmp_path / "c.pth", Given("cityscapes"))
    assert loaded.labels is CITYSCAPES
    assert loaded.epoch == 5
    assert loaded.preprocessing.mean_rgb == (73.158325, 82.90902, 72.3924)
    with torch.no_grad():
        assert torch.equal(loaded.network()(IMAGE), logits(state, 19))
    message = one_line(lambda: load_checkpoint(tmp_path / "c.pth", Given("camvid")), InputError)
    assert "predicts 19 classes; expected 11" in message


def test_ours_carries_its_own(tmp_path: Path) -> None:
    """Nothing may be said of it, but what it says itself; its classes may be of any data set."""
    path = tmp_path / "last.pth"
    own = LabelSet(CAMVID.classes[:3], CAMVID.palette[:3], 255)
    state = STATE | {"classifier.0.conv.weight": STATE["classifier.0.conv.weight"][:3]}
    for dataset in ("folder", "data of a plug-in", "cityscapes"):
        save_checkpoint(replace(CHECKPOINT, state=state, dataset=dataset, labels=own), path)
        assert load_checkpoint(path, Given(dataset, "dabnet")).labels == own
    assert carries_its_own(path)
    message = one_line(lambda: load_checkpoint(path, Given("camvid")), InputError)
    assert "--dataset camvid, but" in message and "was trained on cityscapes" in message
    said = Given(None, "enet", Path("c.txt"), "last", (1,), (1.0, 2.0, 3.0))
    message = one_line(lambda: load_checkpoint(path, said), InputError)
    assert message.startswith("--model, --classes, --void, --dilations, --mean for ")
    assert message.endswith("this one carries its own; leave them out")


def test_an_older_file_of_ours_has_the_published_dilations(tmp_path: Path) -> None:
    path = tmp_path / "last.pth"
    save_checkpoint(CHECKPOINT, path)
    content = torch.load(path, weights_only=True)
    del content["dilations"]
    torch.save(content, path)
    assert load_checkpoint(path).dilations == ()


class Dangerous:
    """Unpickling this would run a command, were anything but weights allowed."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("torch_zip", [True, False])
def test_a_dangerous_pickle_is_refused_by_name_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, torch_zip: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"model": Dangerous()}
    raw = pickle.dumps(content, protocol)
    Path("evil.pth").write_bytes(saved(content) if torch_zip else raw)
    message = one_line(lambda: load_checkpoint("evil.pth", Given("camvid")), ArtifactError)
    if torch_zip or protocol == 2:  # torch reads no further in newer protocols
        assert "it holds posix.system" in message
    assert not Path("pwned").exists()


def test_a_whole_pickled_network_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "m.pth").write_bytes(saved(build_model("dabnet", 11)))
    message = one_line(lambda: load_checkpoint(tmp_path / "m.pth", Given("camvid")), ArtifactError)
    assert "it holds dabnet.models.dabnet.DABNet" in message
    assert "torch.load(FILE, weights_only=False)" in message


def _zip_of(name: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, "hello")
    return stream.getvalue()


BAD_FILES = {
    "empty": (b"", "is empty"),
    "text": (b"# notes\nepoch,loss\n1,2\n", "cannot be read as a checkpoint"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(100), "cannot be read as a checkpoint"),
    "foreign-zip": (_zip_of("report.txt"), "cannot be read as a checkpoint"),
    "list": (saved([1, 2]), "holds a value of type list; expected a state dict"),
    "no-state": (saved({"epoch": 3, "lr": 0.1}), r"no state dict \(its keys: epoch, lr\)"),
    "foreign-state": (
        saved({"fc.weight": torch.zeros(2, 2)}),
        "not ours: it has tensors such as 'fc.weight'",
    ),
    "later-format": (saved({"format": 2, "epoch": 1}), "of format 2; expected format 1"),
    "bare-format": (saved({"format": 1, "epoch": 1}), "tool_version: missing"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_checkpoint_is_one_line(tmp_path: Path, name: str) -> None:
    content, expected = BAD_FILES[name]
    path = tmp_path / "bad.pth"
    path.write_bytes(content)
    message = one_line(lambda: load_checkpoint(path, Given("camvid")))
    assert re.search(expected, message)
    assert "bad.pth" in message


def test_a_directory_and_a_missing_file(tmp_path: Path) -> None:
    assert "is a directory" in one_line(lambda: load_checkpoint(tmp_path), InputError)
    missing = one_line(lambda: load_checkpoint(tmp_path / "none.pth"), InputError)
    assert "no file at" in missing


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", None),
        ("model", {"classifier.0.conv.weight": 3}),
        ("dilations", [2, 2]),
        ("dilations", "wide"),
        ("classes", 11),
        ("classes", ["sky"]),
        ("palette", [1, 2]),
        ("mean_rgb", 3),
        ("model_name", "unet"),
    ],
)
def test_a_garbled_field_of_ours_is_one_line(tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "last.pth"
    save_checkpoint(CHECKPOINT, path)
    content = torch.load(path, weights_only=True)
    torch.save(content | {key: value}, path)
    one_line(lambda: load_checkpoint(path))


@pytest.mark.parametrize("public", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e39])
@pytest.mark.parametrize(
    "name", ["classifier.0.conv.weight", "init_conv.0.bn_prelu.bn.running_var"]
)
def test_weights_that_are_not_finite_are_refused_by_name(
    tmp_path: Path, name: str, value: float, public: bool
) -> None:
    """Each mask would be one class, in every runtime alike: no agreement would tell."""
    state = dict(STATE)
    state[name] = STATE[name].double()  # 1e39 is infinite as soon as it is float32
    state[name].view(-1)[-1] = value
    path = tmp_path / "nan.pth"
    if public:
        torch.save({"epoch": 1, "model": state}, path)
    else:
        save_checkpoint(replace(CHECKPOINT, state=state), path)
    message = one_line(lambda: load_checkpoint(path, Given("camvid")), ArtifactError)
    assert f"nan.pth' has values that are not finite in {name!r}; expected finite" in message


@pytest.mark.parametrize("key", ["mean_rgb", "scale"])
@pytest.mark.parametrize("value", [float("nan"), "grey"])
def test_constants_that_are_not_finite_are_refused(tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "last.pth"
    save_checkpoint(CHECKPOINT, path)
    torch.save(torch.load(path, weights_only=True) | {key: [1.0, value, 1.0]}, path)
    message = one_line(lambda: load_checkpoint(path), ArtifactError)
    assert "finite numbers" in message or f"{key}[1]: expected" in message


@pytest.fixture(scope="module")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    content = {"format": 1, "model": {"a": torch.zeros(2)}, "dataset": "camvid", "classes": ["a"]}
    raw = pickle.dumps({"model": {"a": 1, "b": [1, 2.5, "three"]}}, 2)
    return tmp_path_factory.mktemp("fuzz") / "x.pth", [saved(content), raw]


@settings(max_examples=250, deadline=None, derandomize=True)
@given(
    st.integers(0, 1),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(1, 1 << 16),
)
def test_damage_is_never_a_traceback(
    small_files: tuple[Path, list[bytes]], which: int, flips: list[tuple[int, int]], cut: int
) -> None:
    path, originals = small_files
    content = bytearray(originals[which])
    for position, value in flips:
        content[position % len(content)] = value
    path.write_bytes(content[: 1 + cut % len(content)] if cut % 3 == 0 else content)
    one_line(lambda: load_checkpoint(path, Given("camvid")))


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99, 0.99999])
def test_a_truncated_checkpoint_says_so(tmp_path: Path, share: float) -> None:
    path = tmp_path / "last.pth"
    save_checkpoint(CHECKPOINT, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "truncated" in one_line(lambda: load_checkpoint(path), ArtifactError)


def test_a_failing_save_keeps_the_checkpoint_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pth"
    save_checkpoint(CHECKPOINT, path)
    before = path.read_bytes()
    write = torch.save

    def disk_full(content: object, target: Path) -> None:
        write({"half": 1}, target)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(replace(CHECKPOINT, epoch=8), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
