"""The recipes: published values by network and data set, fitted to the data where they must be."""

from __future__ import annotations

import pytest

from dabnet.errors import InputError
from dabnet.training.recipes import ENCODER, IMPROVED, RECIPES, Extent, Recipe, recipe_for


@pytest.mark.parametrize(
    ("model", "dataset", "published"),
    [
        ("dabnet", "camvid", ((360, 480), 16, 1000, "adam", 1e-3, 2e-4, "ce", 1.10, 500)),
        ("dabnet", "cityscapes", ((512, 1024), 8, 1000, "sgd", 4.5e-2, 1e-4, "ohem", 1.10, 500)),
        ("lednet", "cityscapes", ((512, 1024), 5, 300, "adam", 5e-4, 1e-4, "ce", 1.10, 0)),
        ("erfnet", "cityscapes", ((512, 1024), 6, 150, "adam", 5e-4, 1e-4, "ce", 1.10, 0)),
        ("enet", "camvid", ((360, 480), 10, 300, "adam", 5e-4, 2e-4, "ce", 1.02, 0)),
        ("enet", "folder", ((512, 512), 8, 300, "adam", 5e-4, 2e-4, "ce", 1.02, 0)),
    ],
)
def test_each_network_has_its_published_values(
    model: str, dataset: str, published: tuple[object, ...]
) -> None:
    recipe = recipe_for(model, dataset)
    found = (recipe.input_size, recipe.batch_size, recipe.max_epochs, recipe.optimizer, recipe.lr)
    more = (recipe.weight_decay, recipe.loss, recipe.rarity, recipe.warmup_iterations)
    assert found + more == published


def test_what_is_asked_for_goes_before_all_else() -> None:
    extent = Extent(24, (3000, 4000), processes=2)
    recipe = recipe_for("lednet", "folder", extent, lr=0.1, batch_size=16, stage=ENCODER)
    assert (recipe.lr, recipe.batch_size, recipe.rarity) == (0.1, 16, 1.20)
    assert recipe_for("lednet", "folder", stage=ENCODER, rarity=1.5).rarity == 1.5


@pytest.mark.parametrize(
    ("images", "processes", "batch"),
    [(24, 1, 16), (10, 1, 10), (10, 4, 8), (3, 4, 4), (1, 1, 2)],
)
def test_a_batch_is_no_larger_than_the_data(images: int, processes: int, batch: int) -> None:
    assert recipe_for("dabnet", "camvid", Extent(images, (8, 8), processes)).batch_size == batch


@pytest.mark.parametrize(
    ("size", "crop", "scales", "validation"),
    [
        ((3072, 4096), (512, 512), (0.1875, 0.5), 0.3438),  # 4096 → 1024
        ((47, 155), (48, 160), (0.75, 2.0), 1.0),
        ((480, 1600), (312, 512), (0.48, 1.28), 0.88),
    ],
)
def test_large_photos_are_reduced_and_crops_no_larger_than_them(
    size: tuple[int, int], crop: tuple[int, int], scales: tuple[float, float], validation: float
) -> None:
    recipe = recipe_for("dabnet", "folder", Extent(24, size))
    assert recipe.input_size == crop
    assert (min(recipe.scales), max(recipe.scales)) == scales
    assert recipe.validation_scale == pytest.approx(validation, abs=1e-3)
    assert recipe_for("dabnet", "voc", Extent(24, size)).input_size == (512, 512)


def test_values_out_of_range_and_options_without_effect_are_refused() -> None:
    for wrong, message in (
        ({"rarity": 1.0}, "--rarity 1.0; expected a number above 1"),
        ({"label_smoothing": 1.0}, "--label-smoothing 1.0; expected"),
        ({"label_smoothing": 0.1, "loss": "focal"}, "--label-smoothing 0.1 with --loss focal"),
        ({"stage": "neck"}, "--stage 'neck'; expected whole or classifier or encoder"),
    ):
        with pytest.raises(InputError, match=message):
            recipe_for("dabnet", "camvid", **wrong)


def test_a_recipe_of_before_has_the_values_it_was_trained_with() -> None:
    before = recipe_for("dabnet", "camvid", paper=True).to_dict()
    for new in (
        *("rarity", "label_smoothing", "stage", "colour_jitter", "norm_decay", "schedule"),
        *("auxiliary", "teacher_share", "rare_crops"),
    ):
        del before[new]
    assert Recipe.from_dict(before) == recipe_for("dabnet", "camvid", paper=True)


def test_the_paper_s_recipe_stays_and_the_default_says_what_it_changes() -> None:
    assert recipe_for("dabnet", "camvid", paper=True) == RECIPES["camvid"]
    paper, default = RECIPES["camvid"].to_dict(), recipe_for("dabnet", "camvid").to_dict()
    changed = {name: value for name, value in default.items() if value != paper[name]}
    assert changed == IMPROVED["camvid"]
    # Other networks and fine-tuning keep their own.
    assert recipe_for("enet", "camvid").colour_jitter == 0
    assert recipe_for("dabnet", "camvid", qat=True).colour_jitter == 0
