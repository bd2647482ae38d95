"""Folders of images: files of a split, examples, padding and damaged files."""

import contextlib
import itertools
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deconv_jax.data import decoded_files, file_splits
from deconv_jax.data.config import Data
from deconv_jax.data.embedded import photographs
from deconv_jax.data.file_splits import Files, find_files
from deconv_jax.data.folders import FolderSource, pad_reflect, tile_starts
from deconv_jax.data.images import list_images, read_pixels
from deconv_jax.data.pipeline import evaluation_batches, training_iterator
from deconv_jax.data.source_configs import Digits, Folder, Photographs
from deconv_jax.data.sources import in_memory
from deconv_jax.errors import InputError

SIZES = {"a.png": (20, 31), "b.png": (9, 40), "more/c.png": (33, 17), "more/d.png": (5, 6)}


@pytest.fixture
def folder(tmp_path):
    """Images of four sizes, one of them gray, with distinct pixels."""
    random = np.random.default_rng(0)
    for name, size in SIZES.items():
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = size if name == "b.png" else (*size, 3)
        Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(path)
    return tmp_path / "images"


def names(*arguments):
    files = find_files(*arguments)
    return [files.name(path) for path in files.paths]


def source_of(folder, **options):
    return FolderSource(Files(folder, tuple(list_images(folder))), **options)


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("all", "abcd"),
        ("all[:]", "abcd"),
        ("all[1:]", "bcd"),
        ("all[:-1]", "abc"),
        ("all[-3:-1]", "bc"),
        ("all[50%:]", "cd"),
        ("all[:-25%]", "abc"),
        ("all[:-1%]", "abcd"),
        ("all[-100%:]", "abcd"),
        ("all[30%:70%]", "bc"),
        ("more", "cd"),
        ("more[:1]", "c"),
        ("more+all[:1]", "cda"),
        ("all[:1]+all[2:]", "acd"),
    ],
)
def test_split_is_a_slice_of_the_sorted_files(folder, split, expected):
    found = names(str(folder), split)
    assert "".join(name.removesuffix(".png")[-1] for name in found) == expected


@pytest.mark.parametrize("count", [3, 4, 15, 40])
def test_folder_without_splits_is_split_at_random(tmp_path, count):
    paths = [tmp_path / f"{i:02}.png" for i in range(count)]
    for path in paths:
        Image.new("L", (2, 2)).save(path)
    data = Data(Folder(str(tmp_path), color="gray")).with_splits()
    splits = [
        names(data.source.path, split)
        for split in (data.train_split, data.validation_split, data.test_split)
    ]
    assert sorted(itertools.chain(*splits)) == [path.name for path in paths]
    held_out = {3: 1, 4: 1, 15: 2, 40: 4}[count]
    assert [len(split) for split in splits] == [count - 2 * held_out, held_out, held_out]
    assert data.with_splits() == data
    # An additional file keeps the order of the others.
    before = names(data.source.path, "all@0")
    assert names(data.source.path, "all@1") != before or count < 5
    Image.new("L", (2, 2)).save(tmp_path / "new.png")
    assert [name for name in names(data.source.path, "all@0") if name != "new.png"] == before


def test_random_order_is_the_hash_of_seed_and_name(folder):
    """That of `printf 0/NAME | sha256sum`."""
    assert names(str(folder), "all@0") == ["more/c.png", "b.png", "a.png", "more/d.png"]


def test_given_splits_are_kept(folder, tmp_path):
    named = Data(Folder(str(folder)), test_split="all[:1]")
    assert named.with_splits() == named
    assert Data(Digits()).with_splits() == Data(Digits())
    (folder / "test").mkdir()
    with_folders = Data(Folder(str(folder)))
    assert with_folders.with_splits() == with_folders
    shutil.copytree(folder, tmp_path / "set@1")
    assert names(str(tmp_path), "set@1[:1]") == ["set@1/a.png"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", r"^config\.data\.source='folder:missing': .*no folder"),
        ("images/more", r"^config\.data\.source=.*a training, .* has 2"),
    ],
)
def test_errors_of_random_splits_name_the_key(folder, name, message):
    with pytest.raises(InputError, match=message):
        Data(Folder(name), str(folder.parent)).with_splits()


def test_errors_of_a_split_name_its_key(folder):
    data = Data(Folder(str(folder)), validation_split="val")
    with pytest.raises(InputError, match=r"config\.data\.validation_split='val': .*no split 'val'"):
        data.open("validation")


@settings(deadline=None, derandomize=True)
@given(count=st.integers(2, 40), percent=st.integers(0, 100), place=st.integers(0, 40))
def test_adjacent_slices_are_disjoint_and_complete(count, percent, place):
    files = Files(Path("/"), tuple(Path(f"/{i}.png") for i in range(count)))
    for end in (f"{percent}%", str(min(place, count)), f"-{min(place, count)}", f"-{percent}%"):
        parts = []
        for ends in (("", end), (end, "")):
            with contextlib.suppress(InputError):  # It is empty.
                parts += file_splits.slice_files(files, "", ends).paths
        assert tuple(parts) == files.paths


def test_percentages_from_both_ends_are_the_same_position():
    """[:90%] of 15 files has 14 files, so [-10%:] must have one, although 1.5 is rounded to 2."""
    for count in range(1, 51):
        files = Files(Path("/"), tuple(Path(f"/{i}.png") for i in range(count)))
        for percent in (1, 5, 10, 15, 25, 30, 50, 70, 75, 90, 99):
            parts = []
            for ends in (("", f"{percent}%"), (f"-{100 - percent}%", "")):
                with contextlib.suppress(InputError):  # It is empty.
                    parts += file_splits.slice_files(files, "", ends).paths
            assert tuple(parts) == files.paths, (count, percent)


def test_paths_are_expanded_and_relative_to_data_dir(folder, tmp_path, monkeypatch):
    expected = names(str(folder), "all")
    monkeypatch.setenv("SOME_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name, data_dir in [
        ("images", str(tmp_path)),
        ("images", "$SOME_DATA"),
        ("images", None),
        ("~/images", "/elsewhere"),
        ("$SOME_DATA/images", "/elsewhere"),
    ]:
        assert names(name, "all", data_dir) == expected
    assert names("/elsewhere", "folder:images[:1]", str(tmp_path)) == ["a.png"]


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("missing", "all", "no folder .*missing"),
        ("images", "train", "no split 'train'.*\"all\""),
        ("images", "folder:missing", "no folder .*missing"),
        ("", "all", "path of a folder must not be empty"),
        ("images", "folder:[:2]", "path of a folder must not be empty"),
        ("images", "../images", "'../images' is not a folder in .*images; .* folder:PATH"),
        ("images", "more/../..", "'more/../..' is not a folder in"),
        ("images", "/tmp[:1]", r"'/tmp\[:1\]' is not a folder in .*images; .* folder:PATH"),
        ("$NOWHERE_1/a", "all", r"NOWHERE_1/a; .* variable NOWHERE_1 is not set$"),
        ("images", "folder:${NOWHERE_2}", "variable NOWHERE_2 is not set$"),
        ("images", "all[5:]", "5 is beyond the 4 files"),
        ("images", "all[:-101%]", "-101% is beyond the 4 files"),
        ("images", "all[2:2]", "is empty"),
        ("images", "empty", "is empty.* 0 image files"),
        ("images", "all[x:]", "ill-formed"),
        ("images", "all[1]", "ill-formed"),
        ("images", "all[1:2", "ill-formed"),
    ],
)
def test_invalid_splits_are_errors(folder, tmp_path, name, split, message):
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        find_files(name, split, str(tmp_path))


@settings(deadline=None, derandomize=True)
@given(length=st.integers(1, 200), tile=st.integers(1, 64))
def test_every_crop_of_half_a_tile_is_inside_a_tile(length, tile):
    starts = tile_starts(length, tile)
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    assert starts[-1] == max(length - tile, 0)
    crop = min(tile // 2 + 1, length)
    for place in range(length - crop + 1):
        assert any(start <= place and place + crop <= start + tile for start in starts)


@pytest.mark.parametrize("color", ["rgb", "gray", "y"])
def test_training_examples_are_tiles(folder, color):
    """Every tile equals its part of the file, and "size" is its valid region."""
    tile = 12
    source = source_of(folder, tile=tile, color=color)
    batch = source.gather(np.arange(len(source)))
    assert batch["image"].shape == (len(source), tile, tile, 3 if color == "rgb" else 1)
    assert (batch["image"].dtype, batch["size"].dtype) == (np.uint8, np.int32)
    examples = zip(batch["image"], batch["size"], strict=True)
    row = 0
    for name in SIZES:
        whole = read_pixels(folder / name, color)
        for top in tile_starts(whole.shape[0], tile):
            for left in tile_starts(whole.shape[1], tile):
                image, size = next(examples)
                part = whole[top : top + tile, left : left + tile]
                assert tuple(size) == part.shape[:2]
                missing = tile - size
                expected = np.pad(part, ((0, missing[0]), (0, missing[1]), (0, 0)), "reflect")
                np.testing.assert_array_equal(image, expected)
                row += 1
    assert row == len(source)


def test_padding_reflects_about_the_last_row_and_column():
    """[1 2 3] continues with 2 1 2 3 2: the border pixel is not repeated, and small images are reflected again."""
    image = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)[..., None]
    expected = np.array([[1, 2, 3, 2, 1, 2, 3, 2], [4, 5, 6, 5, 4, 5, 6, 5]])[[0, 1, 0, 1]]
    np.testing.assert_array_equal(pad_reflect(image, 4, 8)[..., 0], expected)
    assert (pad_reflect(image[:1, :1], 3, 2) == 1).all()


def test_evaluation_examples_are_whole_images_padded_to_a_common_size(folder):
    """33 and 40 are the largest height and width; both are rounded up to 48."""
    source = source_of(folder)
    assert source.names == tuple(SIZES)
    order = np.array([3, 0, 2, 1, 0])
    batch = source.gather(order)
    assert batch["image"].shape == (5, 48, 48, 3)
    np.testing.assert_array_equal(batch["size"], np.array(list(SIZES.values()))[order])
    for index, image, (height, width) in zip(order, batch["image"], batch["size"], strict=True):
        true = read_pixels(folder / source.names[index])
        np.testing.assert_array_equal(image[:height, :width], true)
        np.testing.assert_array_equal(image, pad_reflect(true, 48, 48))


def test_folder_in_memory_has_the_same_examples(folder):
    for options in ({}, {"tile": 8}):
        source = source_of(folder, **options)
        held = in_memory(source)
        assert len(held) == len(source)
        assert held.fingerprint == source.fingerprint
        for name, array in source.gather(np.arange(len(source))).items():
            np.testing.assert_array_equal(held.arrays[name], array)


def test_damaged_files_are_left_out_and_do_not_change_other_splits(folder, capsys):
    """The validation slice starts at the third file even if the first cannot be read."""
    (folder / "a.png").write_bytes((folder / "a.png").read_bytes()[:-30])
    (folder / "more" / "d.png").write_bytes(b"")
    data = Data(Folder(str(folder), tile=4), train_split="all[:2]", validation_split="all[2:]")
    assert data.open("train").names == ("b.png",)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "warning: image files left out of the train split: 1"
    assert len(said) == 2
    assert f"cannot read image {folder / 'a.png'}: " in said[1]
    validation = data.open("validation")
    assert validation.names == ("more/c.png",)
    assert len(validation.skipped) == 1
    with pytest.raises(InputError, match="no image file that can be read: cannot read image"):
        Folder(str(folder)).open("all[:1]")


def test_pipes_and_links_to_folders_are_left_out_with_a_warning(folder, tmp_path, capsys):
    os.mkfifo(folder / "e.png")
    (folder / "more" / "link").symlink_to(tmp_path)
    for split, count in (("all", 4), ("all[:3]", 2), ("all[:2]+all[3:]", 4)):
        source = Data(Folder(str(folder)), train_split=split).open("train")
        assert len(source.names) == count
        said = capsys.readouterr().err
        assert said.count(f"{folder}/more/link is a link to a folder, not followed") == 1
        assert said.count(f"{folder}/e.png: not a regular file") == ("+" not in split)


def test_missing_file_is_named(folder):
    source = source_of(folder, cache_bytes=0)
    (folder / "b.png").unlink()
    with pytest.raises(InputError, match=r"cannot read image .*b\.png"):
        source.gather(np.array([1]))


def counted(monkeypatch):
    """Count the decoded files by name."""
    decoded = []

    def read(path, color):
        decoded.append(path.name)
        return read_pixels(path, color)

    monkeypatch.setattr(decoded_files, "read_pixels", read)
    return decoded


def test_cached_images_are_not_decoded_again(folder, monkeypatch):
    decoded = counted(monkeypatch)
    source = source_of(folder, tile=8)
    for _ in range(2):
        source.gather(np.arange(len(source)))
    assert sorted(decoded) == ["a.png", "b.png", "c.png", "d.png"]


def test_cache_drops_the_least_recently_used_image(folder, monkeypatch):
    """The cache has room for two of the images of 3 * 20 * 31 = 1860, 1080, 1683 and 90 bytes."""
    source = pickle.loads(pickle.dumps(source_of(folder, cache_bytes=3600)))  # It holds none yet.
    decoded = counted(monkeypatch)
    source.gather(np.array([0, 2, 0, 2, 0]))
    assert decoded == ["a.png", "c.png"]
    source.gather(np.array([1, 0]))  # b.png drives out c.png, which was used longer ago.
    assert decoded == ["a.png", "c.png", "b.png"]
    source.gather(np.array([2]))
    assert decoded == ["a.png", "c.png", "b.png", "c.png"]
    nothing_held = source_of(folder, cache_bytes=0)
    decoded.clear()
    nothing_held.gather(np.array([0, 0]))
    assert decoded == ["a.png", "a.png"]


def test_threads_and_processes_get_the_same_examples(folder):
    """Threads share a cache with room for one image; processes get a copy of the source."""
    source = source_of(folder, tile=8, cache_bytes=2000)
    everything = np.arange(len(source))
    expected = source.gather(everything)["image"]
    orders = [np.random.default_rng(i).permutation(everything) for i in range(16)]
    with ThreadPoolExecutor(8) as threads:
        for order, batch in zip(orders, threads.map(source.gather, orders), strict=True):
            np.testing.assert_array_equal(batch["image"], expected[order])
    copy = pickle.loads(pickle.dumps(source))
    assert copy.fingerprint == source.fingerprint
    np.testing.assert_array_equal(copy.gather(everything)["image"], expected)


def resaved(folder):
    """Change the pixels of a file, and with them its size in bytes."""
    Image.fromarray(np.zeros((20, 31, 3), np.uint8)).save(folder / "a.png")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda folder: (folder / "b.png").unlink(), {"examples", "files", "bytes"}),
        (lambda folder: (folder / "b.png").write_bytes(b"?"), {"examples", "files", "bytes"}),
        (lambda folder: (folder / "b.png").rename(folder / "z.png"), set()),
        (resaved, {"bytes"}),
    ],
    ids=["removed", "damaged", "renamed", "replaced"],
)
def test_fingerprint_depends_on_the_files(folder, tmp_path, change, told):
    before = source_of(folder, tile=8).fingerprint
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert source_of(copy, tile=8).fingerprint == before
    change(folder)
    after = source_of(folder, tile=8).fingerprint
    assert {key for key in before if before[key] != after[key]} == told | {"names_and_sizes"}


def test_fingerprint_depends_on_order_shapes_and_options(folder):
    """Two uncompressed images of equal size in bytes swap their names."""
    for name, shape in (("b.bmp", (20, 32, 3)), ("c.bmp", (32, 20, 3))):
        Image.fromarray(np.zeros(shape, np.uint8)).save(folder / name)
    assert (folder / "b.bmp").stat().st_size == (folder / "c.bmp").stat().st_size
    fingerprints = [source_of(folder, tile=t, color=c).fingerprint for t, c in OPTIONS]
    (folder / "b.bmp").rename(folder / "x")
    (folder / "c.bmp").rename(folder / "b.bmp")
    (folder / "x").rename(folder / "c.bmp")
    fingerprints.append(source_of(folder, tile=8).fingerprint)
    assert len({f["names_and_sizes"] for f in fingerprints}) == len(OPTIONS) + 1


OPTIONS = ((8, "rgb"), (9, "rgb"), (8, "gray"), (None, "rgb"))


def test_batches_of_a_folder(folder):
    source = source_of(folder, tile=8)
    for batch in training_iterator(source, batch_size=5, batches=4, seed=0):
        expected = source.gather(batch["index"])
        for name in ("image", "size"):
            np.testing.assert_array_equal(batch[name], expected[name])
    whole = source_of(folder)
    seen = [b["index"][b["mask"] == 1] for b in evaluation_batches(whole, batch_size=3)]
    np.testing.assert_array_equal(np.concatenate(seen), np.arange(len(whole)))


def test_tiles_are_used_only_for_training(folder):
    split = {"train_split": "all", "validation_split": "all[:1]", "test_split": "more"}
    data = Data(Folder(str(folder), tile=8, color="gray"), **split)
    assert data.open("train").gather(np.array([0]))["image"].shape == (1, 8, 8, 1)
    assert data.open("validation").gather(np.array([0]))["image"].shape == (1, 32, 32, 1)
    assert data.open("test").gather(np.array([0]))["image"].shape == (1, 48, 32, 1)


def test_every_photograph_is_in_one_split():
    """Offline, because scikit-image's wheel contains them."""
    data = Data(Photographs(tile=96, color="gray"))
    splits = {split: data.open(split) for split in ("train", "validation", "test")}
    files = [set(source.names) for source in splits.values()]
    assert sum(map(len, files)) == len(set.union(*files)) == 12
    for source in splits.values():
        assert source.skipped == ()
    assert splits["train"].gather(np.array([0]))["image"].shape == (1, 96, 96, 1)
    every = Photographs().open("all")
    assert set(every.names) == set.union(*files)
    assert Photographs().open("test[1:2]").names == ("camera.png",)


def test_missing_photographs_are_named(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no split 'tests'; did you mean 'test'"):
        Photographs().open("tests")
    monkeypatch.setattr(photographs.resources, "files", lambda _: tmp_path)
    with pytest.raises(InputError, match=r"lacks gravel\.png, rocket\.jpg; install scikit-image"):
        Photographs().open("validation")


def test_image_files_need_no_preparation():
    for source in (Photographs(), Folder("anywhere")):
        with pytest.raises(InputError, match="needs no preparation"):
            source.prepare()


def test_name_of_another_folder_may_end_like_a_shuffled_split(tmp_path):
    for name in ("set", "set@2024"):
        (tmp_path / name).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / name / f"of_{name}.png")
    for chosen in ("set", "set@2024"):
        found = find_files(f"{tmp_path}/set", f"folder:{tmp_path}/{chosen}", None)
        assert [path.name for path in found.paths] == [f"of_{chosen}.png"]
