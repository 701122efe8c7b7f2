"""A network of one module and one line of the registry goes the whole way."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from dabnet.artifact import open_artifact
from dabnet.checkpoint import Given, load_checkpoint
from dabnet.data.toy_street import ToyStreet
from dabnet.errors import ArtifactError, InputError
from dabnet.models import UNIT
from dabnet.models.image_to_mask import ImageToMask
from dabnet.training.loop import train
from dabnet.training.recipes import Recipe
from export.onnx_export import export_onnx
from export.spec import ExportSpec
from tests.support.seeded_checkpoint import no_bar
from tests.support.tiny_network import TinyNet, register
from tests.support.training_runs import spec_for

SIZE = (36, 52)  # multiples of its stride, not of DABNet's


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    register(monkeypatch)
    recipe = Recipe(input_size=SIZE, batch_size=2, max_epochs=1, lr=1e-2)
    spec = spec_for(tmp_path / "run", model="tiny", recipe=recipe)
    train(spec, ToyStreet("train", SIZE, 4), ToyStreet("val", SIZE, 2))
    return tmp_path / "run" / "best.pth"


def test_its_checkpoint_says_its_network_and_its_preprocessing(trained: Path) -> None:
    checkpoint = load_checkpoint(trained)
    assert checkpoint.model == "tiny"
    assert isinstance(checkpoint.network(), TinyNet)
    assert checkpoint.preprocessing.scale == (1 / 255, 1 / 255, 1 / 255)


def test_its_onnx_file_gives_the_masks_of_pytorch(trained: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(trained)
    path = tmp_path / "tiny.onnx"
    manifest = export_onnx(trained, path, ExportSpec(SIZE, check_images=1), progress=no_bar)
    assert (manifest.model, manifest.logits) == ("tiny", "/network/head/head.1/Conv_output_0")
    images = np.stack([ToyStreet("val", SIZE, 1)[0].image])
    (found,) = onnxruntime.InferenceSession(path).run(None, {"image": images})
    module = ImageToMask(checkpoint.network(), checkpoint.preprocessing).eval()
    assert len(np.unique(found)) > 1
    np.testing.assert_array_equal(found, module(torch.from_numpy(images)).numpy())


def test_a_file_of_any_size_says_its_stride(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    spec = ExportSpec(SIZE, check_images=1, dynamic_size=True)
    assert export_onnx(trained, path, spec, progress=no_bar).stride == 4
    with closing(open_artifact(path)) as runner:
        assert runner.infer(np.zeros((1, 44, 60, 3), np.uint8)).shape == (1, 44, 60)
        with pytest.raises(InputError, match="42"):
            runner.infer(np.zeros((1, 42, 60, 3), np.uint8))


def test_a_size_that_it_cannot_take_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="image size 34x52; expected .* multiples of 4"):
        export_onnx(trained, tmp_path / "tiny.onnx", ExportSpec((34, 52)), progress=no_bar)
    with pytest.raises(InputError, match="image size 34x52; expected .* multiples of 4"):
        spec_for(tmp_path, model="tiny", recipe=Recipe((34, 52), batch_size=2, max_epochs=1))


def test_weights_alone_are_those_of_the_network_that_they_fit(
    trained: Path, tmp_path: Path
) -> None:
    torch.save(load_checkpoint(trained).state, tmp_path / "tiny.pth")
    loaded = load_checkpoint(tmp_path / "tiny.pth", Given("camvid"))
    assert (loaded.model, loaded.preprocessing) == ("tiny", UNIT)
    torch.save({"stem.weight": torch.zeros(3)}, tmp_path / "foreign.pth")
    with pytest.raises(ArtifactError, match="not ours: it has tensors such as 'stem.weight'"):
        load_checkpoint(tmp_path / "foreign.pth", Given("camvid"))


def test_weights_for_other_classes_say_how_many(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of a head with a bias, too: two of its tensors have sides of the classes."""
    register(monkeypatch)
    torch.save(TinyNet(3).state_dict(), tmp_path / "other.pth")
    with pytest.raises(InputError, match="predicts 3 classes; expected 11, the classes of camvid"):
        load_checkpoint(tmp_path / "other.pth", Given("camvid"))
