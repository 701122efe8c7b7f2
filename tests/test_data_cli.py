"""``dabnet-data check`` finds what the readers refuse, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dabnet.data.registry import open_dataset
from dabnet.data.toy_street import write_camvid_tree
from dabnet.data_cli import main
from dabnet.errors import InputError

SIZE = (40, 64)


def check(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``dabnet-data check``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["dabnet-data", "check", *words])
        with pytest.raises(SystemExit) as stop:
            main()
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


def write_folder(root: Path, count: int = 10) -> Path:
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for number in range(count):
        mask = np.zeros(SIZE, np.uint8)
        mask[:, 10:30], mask[:10] = 1, 255
        Image.fromarray(np.dstack([mask] * 3)).save(root / f"images/{number}.png")
        Image.fromarray(mask).save(root / f"masks/{number}.png")
    (root / "classes.txt").write_text("lawn\npath\npond\n")
    return root


def test_what_is_right_is_counted_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, sheet = write_folder(tmp_path / "data"), tmp_path / "sheet.png"
    train = len(open_dataset("folder", "train", root))
    code, out, err = check(capsys, str(root), "--sheet", str(sheet))
    assert (code, err) == (0, "")
    words = [line.split() for line in out.splitlines()]
    assert ["train", str(train), "images", "40x64", f"({train})"] in words
    assert ["path", "31.250", "31.250"] in words
    assert ["pond", "–", "–"] in words
    assert "never in train: pond" in out
    with Image.open(sheet) as picture:
        assert picture.width == 960
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or ()}
    assert {(128, 0, 0), (0, 128, 0)} <= colours  # the legend


def test_every_fault_is_counted_by_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, sheet = write_folder(tmp_path / "data", 20), str(tmp_path / "sheet.png")
    for number in range(7):
        Image.new("L", (64, 40), 9).save(root / f"masks/{number}.png")
    Image.new("L", (64, 41)).save(root / "masks/7.png")
    (root / "images/8.png").write_bytes(b"")
    (root / "masks/9.png").unlink()
    code, out, err = check(capsys, str(root), "--sheet", sheet)
    assert code == 2
    assert err.splitlines() == [
        f"error: the data set in {str(root)!r} has 10 faults; they are listed above"
    ]
    assert "masks with values or colours outside the classes: 7\n" in out
    assert out.count("holds the label value 9") == 5
    assert "  … and 2 more\n" in out
    assert "masks of another size than their image: 1\n" in out
    assert "files that cannot be read: 1\n" in out
    assert "1 of 20 images have no mask, the first is" in out


def test_images_of_both_splits_and_a_folder_without_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, sheet = write_folder(tmp_path / "data", 4), str(tmp_path / "sheet.png")
    (root / "train.txt").write_text("0\n1\n2\n")
    (root / "val.txt").write_text("2\nimages/3.png masks/3.png\n")
    code, out, _ = check(capsys, str(root), "--sheet", sheet)
    assert (code, "1 of 2 images of val are in train too, the first is" in out) == (2, True)
    for split in ("train", "val"):
        (root / f"{split}.txt").unlink()
    for mask in (root / "masks").iterdir():
        mask.rename(mask.with_stem(f"mask-{mask.stem}"))
    code, out, _ = check(capsys, str(root), "--sheet", sheet)
    assert (code, "4 of 4 images have no mask" in out) == (2, True)
    assert "never in" not in out


def test_labels_of_one_class_and_splits_that_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = str(tmp_path / "sheet.png")
    tree = write_camvid_tree(tmp_path / "camvid", (48, 64), {"train": 2, "val": 1})
    given = (str(tree), "--dataset", "camvid", "--sheet", sheet)
    assert check(capsys, *given)[0] == 0
    for path in (tree / "trainannot").iterdir():
        Image.fromarray((np.asarray(Image.open(path)) == 3) * np.uint8(255)).save(path)
    (tree / "camvid_val_list.txt").unlink()
    code, out, err = check(capsys, *given)
    assert (code, err.count("\n")) == (2, 1)
    assert "labels of the train split hold one class alone, 'sky', and" in out
    assert "the val split is not in" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "no directory at 'nowhere'"),
        (("bare",), "'bare' has no file of classes"),
        (("bare", "--dataset", "voc"), "the train split is not in 'bare'"),
        (("bare", "--classes", "nothing.txt"), "no file at 'nothing.txt'"),
        (("bare", "--sheet", "a.xyz"), "--sheet 'a.xyz'; expected a name that ends in .png"),
        (("bare", "--dataset", "toy-street"), "'toy-street' is not one of"),
    ],
)
def test_what_cannot_be_checked_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bare").mkdir()
    code, out, err = check(capsys, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["bare"]


def refused(root: Path) -> set[str]:
    """What a run that reads everything would be told, fault by fault."""
    found = set()
    for split in ("train", "val"):
        try:
            dataset = open_dataset("folder", split, root)
        except InputError as error:
            found.add(str(error))
            continue
        for index in range(len(dataset)):
            try:
                dataset[index]
            except InputError as error:
                found.add(str(error))
    return found


DAMAGES = st.sampled_from(["right", "value", "colour", "size", "cut", "alone", "16 bits", "turned"])


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(DAMAGES, min_size=4, max_size=4))
def test_the_check_says_what_the_readers_say(
    tmp_path_factory: pytest.TempPathFactory, damages: list[str]
) -> None:
    root = write_folder(tmp_path_factory.mktemp("folder") / "data", 6)
    for number, damage in enumerate(damages):
        mask, image = root / f"masks/{number}.png", root / f"images/{number}.png"
        values = np.asarray(Image.open(mask))
        if damage == "value":
            Image.fromarray(values + np.uint8(5) * (values == 1)).save(mask)
        elif damage == "colour":
            Image.new("RGB", (64, 40), (1, 2, 3)).save(mask)
        elif damage == "size":
            Image.fromarray(values[1:]).save(mask)
        elif damage == "cut":
            image.write_bytes(image.read_bytes()[:-30])
        elif damage == "alone":
            mask.unlink()
        elif damage == "16 bits":
            Image.fromarray(values.astype(np.uint16)).save(mask)
        elif damage == "turned":
            exif = Image.Exif()
            exif[0x0112] = 6
            Image.open(image).save(image, exif=exif)
    from dabnet.console import progress_bar
    from dabnet.data.check import check_dataset

    checked, closed = check_dataset("folder", root, None, 0, progress_bar)
    said = {str(fault) for split in checked for fault in split.faults} | set(map(str, closed))
    strict = refused(root)
    assert strict <= said
    assert bool(strict) == bool(said) == bool(set(damages) - {"right", "16 bits"})
    if "alone" not in damages:  # a run ends there, and a check goes on
        assert strict == said
