"""Which files are read and written: found out, or refused, before anything is done."""

from pathlib import Path

import numpy as np
import pytest

from deconv_jax.data.images import write_image
from deconv_jax.errors import InputError
from deconv_jax.inference.files import plan_jobs, read_kernel


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
        for job in plan_jobs(inputs, Path("out"), **options)
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
    jobs = plan_jobs(["in", "in/**"], Path("in/results"))
    assert [job.source for job in jobs] == [Path("in/a.png")]


@pytest.mark.parametrize(
    ("inputs", "options", "said"),
    [
        (["none.png"], {}, "no input none.png"),
        (["empty"], {}, "empty holds no images"),
        (["*.gif"], {}, r"\*.gif holds no images"),
        (["a.png", "in/a.png"], {}, "a.png and in/a.png would both be written to out/a.png"),
        (["in/a.png", "in/a.tif"], {"suffix": ".png"}, "would both be written to out/a.png"),
        (["a.png"], {"suffix": ".pgn"}, "no image format '.pgn'; did you mean '.png'"),
        (["a.png"], {"references": Path("none")}, "reference folder none is not a folder"),
        (["more"], {"references": Path("truth")}, "truth has no reference for any of the 1 im"),
        (["out/z.png"], {}, "out/z.png is in the output folder out, whose files are never inputs"),
        (["out/deep/y.png"], {}, "out/deep/y.png is in the output folder"),
        (["out"], {}, r"out holds no images to work on .* outside of out"),
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
    jobs = plan_jobs(["in"], Path("out"), references=Path("truth"), compare=True)
    assert [job.reference for job in jobs] == [Path("truth/b.png"), Path("truth/x/a.png")]
    assert [job.comparison for job in jobs] == [
        Path("out/b.png.compare.png"),
        Path("out/x/a.jpg.compare.png"),
    ]
    # One that is missing is found when its turn comes.
    place("in/x/c.tif")
    jobs = plan_jobs(["in"], Path("out"), references=Path("truth"))
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
    assert {job.source for job in plan_jobs(["in"], Path("out"))} == {
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
    np.savez(tmp_path / "z.npz", a=np.ones(2))
    (tmp_path / "z.npz").rename(tmp_path / "z.npy")
    with pytest.raises(InputError, match="must be an array"):
        read_kernel(tmp_path / "z.npy")
