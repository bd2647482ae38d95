"""Which files are read and written: found out, or refused, before anything is done."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from deconv_jax.data.images import list_images, read_image, write_image
from deconv_jax.errors import InputError
from deconv_jax.inference.image_files import plan_jobs, read_kernel


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Makes empty files in the current folder, a new one."""
    monkeypatch.chdir(tmp_path)

    def make(*names):
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).touch()

    return make


def planned(*inputs, **options):
    return [
        (job.source.as_posix(), job.output.as_posix())
        for job in plan_jobs(inputs, Path("out"), **options).jobs
    ]


def test_files_folders_and_patterns(place):
    place("a.png", "in/b.JPG", "in/deep/c.tif", "in/notes.txt", "more/d.png", "more/e.bmp")
    assert planned("a.png", "in", "more/*.png") == [
        ("a.png", "out/a.png"),
        ("in/b.JPG", "out/b.JPG"),
        ("in/deep/c.tif", "out/deep/c.tif"),
        ("more/d.png", "out/d.png"),
    ]
    assert planned("in/**", suffix=".png") == [
        ("in/b.JPG", "out/b.png"),
        ("in/deep/c.tif", "out/c.png"),
    ]
    # Named twice, done once; and a file keeps its name whatever that is.
    place("odd[1].png")
    assert planned("odd[1].png", "./odd[1].png") == [("odd[1].png", "out/odd[1].png")]


def test_a_file_is_done_once_however_it_is_named(place):
    place("photos/a/00.png", "photos/01.png", "elsewhere/x.txt")
    Path("elsewhere/link").symlink_to(Path("photos").absolute())
    again = ["photos/a/00.png", "photos/a/*.png", "photos/../photos", "elsewhere/link/a"]
    assert planned("photos", *again) == [
        ("photos/01.png", "out/01.png"),
        ("photos/a/00.png", "out/a/00.png"),
    ]
    # The first name decides where the result goes.
    assert planned("photos/a/00.png", "photos") == [
        ("photos/a/00.png", "out/00.png"),
        ("photos/01.png", "out/01.png"),
    ]


def test_earlier_results_are_no_inputs(place):
    place("in/a.png", "in/results/a.png")
    plan = plan_jobs(["in", "in/**"], Path("in/results"))
    assert [job.source for job in plan.jobs] == [Path("in/a.png")]
    assert plan.summary() == ["left out, results of earlier runs (1): in/results/a.png"]


def test_all_that_is_left_out_is_counted_and_named(place):
    """Other formats, links to folders, hidden files, second names, comparisons."""
    place("in/a.png", "in/b.heic", "in/c.gif", "in/.d.png", "in/.e/f.png", "in/a.png.compare.png")
    place("in/deep/notes.txt", "elsewhere/g.png")
    Path("in/link").symlink_to(Path("elsewhere").absolute())
    Path("in/z.png").symlink_to("a.png")
    Path("in/.hidden_link").symlink_to(Path("elsewhere").absolute())
    plan = plan_jobs(["in"], Path("out"))
    assert [job.source for job in plan.jobs] == [Path("in/a.png")]
    assert set(plan.summary()) == {
        "left out, of a format that is not read here (3): in/b.heic, in/c.gif, in/deep/notes.txt",
        "left out, links to folders, which are not followed (1): in/link",
        "left out, hidden (3): in/.d.png, in/.e, in/.hidden_link",
        "left out, other names of files that were found before (1): in/z.png is in/a.png",
        "left out, results of earlier runs (1): in/a.png.compare.png",
    }
    assert plan.complete
    place(*(f"in/{number:03}.txt" for number in range(30)))
    line = next(line for line in plan_jobs(["in/*"], Path("out")).summary() if "format" in line)
    assert line.startswith("left out, of a format that is not read here (32): in/000.txt, in/001")
    assert line.endswith("in/019.txt and 12 more")
    matched = "left out, folders that a pattern matches (2): in/deep, in/link"
    assert matched in plan_jobs(["in/*"], Path("out")).summary()


def test_a_folder_that_cannot_be_read_is_named_and_the_others_are_done(place, monkeypatch):
    place("in/a.png", "in/closed/b.png")
    scan = os.scandir

    def denied(path):
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    plan = plan_jobs(["in"], Path("out"))
    assert [job.source for job in plan.jobs] == [Path("in/a.png")]
    assert plan.summary() == ["left out, folders that cannot be read (1): in/closed"]
    assert not plan.complete
    with pytest.raises(InputError, match="cannot read folder in/closed: Permission denied"):
        plan_jobs(["in/closed"], Path("out"))
    # A data set is never less than what is in its folder.
    with pytest.raises(InputError, match="cannot read folder in/closed: Permission denied"):
        list_images(Path("in"))


def test_what_is_no_regular_file_waits_for_its_turn(place):
    """In a folder a pipe or a link that leads nowhere is one bad file among others."""
    place("in/a.png", "truth/a.png")
    os.mkfifo("in/pipe.png")
    Path("in/loop.png").symlink_to("loop.png")
    Path("in/nothing.png").symlink_to("gone.png")
    Path("truth/loop.png").symlink_to("loop.png")
    jobs = plan_jobs(["in"], Path("out"), references=Path("truth")).jobs
    assert [job.source.name for job in jobs] == ["a.png", "loop.png", "nothing.png", "pipe.png"]
    assert {job.source for job in plan_jobs(["in/*"], Path("out")).jobs} == {j.source for j in jobs}
    reasons = ["Too many levels of symbolic links", "No such file", "not a regular file"]
    for job, reason in zip(jobs[1:], reasons, strict=True):
        with pytest.raises(InputError, match=f"cannot read image {job.source}: {reason}"):
            read_image(job.source)
    with pytest.raises(InputError, match=r"cannot access in/loop\.png: Too many levels"):
        plan_jobs(["in/loop.png"], Path("out"))
    with pytest.raises(InputError, match=r"no input in/nothing\.png: it is a link to nothing"):
        plan_jobs(["in/nothing.png"], Path("out"))
    os.mkfifo("in/pipe.npy")
    with pytest.raises(InputError, match=r"cannot read kernel in/pipe\.npy: .*not a regular"):
        read_kernel(Path("in/pipe.npy"))


@pytest.mark.parametrize(
    ("inputs", "options", "said"),
    [
        (["none.png"], {}, "no input none.png"),
        (["empty"], {}, r"empty holds no files to work on .*; left out: 1 of a format"),
        (["*.gif"], {}, r"\*.gif holds no files"),
        (["a.png", "in/a.png"], {}, "a.png and in/a.png would both be written to out/a.png"),
        (["in/a.png", "in/a.tif"], {"suffix": ".png"}, "would both be written to out/a.png"),
        (["a.png"], {"suffix": ".pgn"}, "no image format '.pgn'; did you mean '.png'"),
        (["a.png"], {"references": Path("none")}, "reference folder none is not a folder"),
        (["more"], {"references": Path("truth")}, "truth has no reference for any of the 1 im"),
        (["out/z.png"], {}, "out/z.png is in the output folder out, whose files are never inputs"),
        (["out/deep/y.png"], {}, "out/deep/y.png is in the output folder"),
        (["out"], {}, r"out holds no files to work on .*; left out: 3 results of earlier"),
        (["truth/b.png"], {"references": Path("out")}, "would replace out/b.png"),
    ],
)
def test_mistakes_of_several_files_are_found_first(place, inputs, options, said):
    place("a.png", "in/a.png", "in/a.tif", "empty/x.txt", "out/z.png", "out/b.png")
    place("truth/b.png", "more/c.tif", "out/deep/y.png")
    with pytest.raises(InputError, match=said):
        plan_jobs(inputs, Path("out"), **options)


def test_the_output_is_a_folder(place):
    place("a.png", "file")
    with pytest.raises(InputError, match="output file is not a folder"):
        plan_jobs(["a.png"], Path("file"))


def test_references_and_comparisons_go_by_name(place):
    place("in/x/a.jpg", "in/b.png", "truth/x/a.png", "truth/b.png")
    jobs = plan_jobs(["in"], Path("out"), references=Path("truth"), compare=True).jobs
    assert [job.reference for job in jobs] == [Path("truth/b.png"), Path("truth/x/a.png")]
    assert [job.comparison for job in jobs] == [
        Path("out/b.png.compare.png"),
        Path("out/x/a.jpg.compare.png"),
    ]
    # One that is missing is found when its turn comes.
    place("in/x/c.tif")
    jobs = plan_jobs(["in"], Path("out"), references=Path("truth")).jobs
    assert [job.reference for job in jobs] == [
        Path("truth/b.png"),
        Path("truth/x/a.png"),
        Path("truth/x/c.tif"),
    ]
    # Nor may a result become the reference that it is measured by.
    place("out/note.txt")
    with pytest.raises(InputError, match=r"of in/x/c.tif would replace out/c.tif"):
        plan_jobs(["in/x/c.tif"], Path("out"), references=Path("out"))
    Path("in/x/c.tif").unlink()
    # A comparison in a folder is no input; named, it is one, and takes a name too.
    place("in/b.png.compare.png", "truth/b.png.compare.png")
    assert {job.source for job in plan_jobs(["in"], Path("out")).jobs} == {
        Path("in/b.png"),
        Path("in/x/a.jpg"),
    }
    with pytest.raises(InputError, match=r"both be written to out/b.png.compare.png"):
        plan_jobs(["in/b.png", "in/b.png.compare.png"], Path("out"), compare=True)


def test_a_kernel_from_a_picture_or_an_array_sums_to_one(tmp_path):
    kernel = np.array([[0, 1, 0, 0], [1, 4, 1, 0]])
    np.save(tmp_path / "k.npy", kernel)
    read = read_kernel(tmp_path / "k.npy")
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, kernel / 7, rtol=1e-6)
    write_image(tmp_path / "k.png", (kernel / 5.0).astype(np.float32)[..., None])
    np.testing.assert_allclose(read_kernel(tmp_path / "k.png"), kernel / 7, atol=1e-3)
    gray = np.repeat((kernel / 5.0).astype(np.float32)[..., None], 3, axis=-1)
    write_image(tmp_path / "rgb.png", gray)
    np.testing.assert_array_equal(
        read_kernel(tmp_path / "rgb.png"), read_kernel(tmp_path / "k.png")
    )


@pytest.mark.parametrize(
    "kernel", [np.zeros((3, 3)), np.ones(3), np.full((2, 2), np.nan), np.ones((0, 2)), -np.eye(2)]
)
def test_what_is_no_kernel_is_refused(tmp_path, kernel):
    np.save(tmp_path / "k.npy", kernel)
    with pytest.raises(InputError, match=r"kernel .*k.npy must"):
        read_kernel(tmp_path / "k.npy")


def test_a_kernel_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="cannot read kernel"):
        read_kernel(tmp_path / "none.npy")
    np.save(tmp_path / "k.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(InputError, match="cannot read kernel"):
        read_kernel(tmp_path / "k.npy")
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    (tmp_path / "k.npy").write_bytes(
        b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(64)
    )
    with pytest.raises(InputError, match=r"cannot read kernel .*greater than file size"):
        read_kernel(tmp_path / "k.npy")
    np.save(tmp_path / "k.npy", np.ones((1, 2**24 + 1), np.uint8))
    with pytest.raises(InputError, match="at most 16777216 pixels"):
        read_kernel(tmp_path / "k.npy")
    with pytest.raises(InputError, match=r"k\.mat: MATLAB files are not read; use \.png or \.npy"):
        read_kernel(tmp_path / "k.mat")
    np.savez(tmp_path / "z.npz", a=np.ones(2))
    (tmp_path / "z.npz").rename(tmp_path / "z.npy")
    with pytest.raises(InputError, match="must be an array"):
        read_kernel(tmp_path / "z.npy")
