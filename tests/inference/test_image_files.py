"""Planning of input and output files, with all errors that involve several of them."""

import errno
import os
from pathlib import Path

import pytest

from deconv_jax.data.images import (
    SKIPPED_HIDDEN,
    SKIPPED_LINK,
    SKIPPED_OTHER_FORMAT,
    SKIPPED_UNREADABLE,
    list_images,
    read_image,
)
from deconv_jax.errors import InputError
from deconv_jax.inference.image_files import plan_jobs


@pytest.fixture
def touch(tmp_path, monkeypatch):
    """Function that creates empty files in the current folder, which starts empty."""
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


def test_inputs_are_files_folders_and_patterns(touch):
    touch("a.png", "in/b.JPG", "in/deep/c.tif", "in/notes.txt", "more/d.png", "more/e.bmp")
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
    # A file that is named twice is done once, whatever characters are in its name.
    touch("odd[1].png")
    assert planned("odd[1].png", "./odd[1].png") == [("odd[1].png", "out/odd[1].png")]


def test_each_file_is_done_once(touch):
    touch("photos/a/00.png", "photos/01.png", "elsewhere/x.txt")
    Path("elsewhere/link").symlink_to(Path("photos").absolute())
    again = ["photos/a/00.png", "photos/a/*.png", "photos/../photos", "elsewhere/link/a"]
    assert planned("photos", *again) == [
        ("photos/01.png", "out/01.png"),
        ("photos/a/00.png", "out/a/00.png"),
    ]
    # The first mention decides where the result goes.
    assert planned("photos/a/00.png", "photos") == [
        ("photos/a/00.png", "out/00.png"),
        ("photos/01.png", "out/01.png"),
    ]


def test_earlier_results_are_skipped(touch):
    touch("in/a.png", "in/results/a.png")
    plan = plan_jobs(["in", "in/**"], Path("in/results"))
    assert [job.source for job in plan.jobs] == [Path("in/a.png")]
    assert plan.summary() == ["skipped 1 (output of an earlier run): in/results/a.png"]


def test_results_go_beside_their_inputs_without_an_output(touch):
    touch("a.b.png", "in/c.JPG", "in/c.restored.JPG", "in/deep/d.tif", "in/c.restored.png")
    plan = plan_jobs(["a.b.png", "in"], None, compare=True)
    assert [(str(job.source), str(job.output)) for job in plan.jobs] == [
        ("a.b.png", "a.b.restored.png"),
        ("in/c.JPG", "in/c.restored.JPG"),
        ("in/deep/d.tif", "in/deep/d.restored.tif"),
    ]
    assert plan.jobs[0].comparison == Path("a.b.restored.png.compare.png")
    assert plan.summary() == [
        "skipped 2 (output of an earlier run): in/c.restored.JPG, in/c.restored.png"
    ]
    # A file that is named is restored, whatever its name.
    (job,) = plan_jobs(["in/c.restored.png"], None, suffix=".tif").jobs
    assert job.output == Path("in/c.restored.restored.tif")
    touch("in/c.png")
    with pytest.raises(InputError, match=r"c.JPG and in/c.png would both be written to in/c.rest"):
        plan_jobs(["in/c.JPG", "in/c.png"], None, suffix=".tif")


def test_an_output_with_a_suffix_is_the_file_of_the_only_result(touch):
    touch("a.png", "b.png", "in/c.png")
    Path("folder.png").mkdir()
    out = Path("new/out.TIF")
    (job,) = plan_jobs(["a.png"], out, compare=True, accept_file=True).jobs
    assert (job.output, job.comparison) == (out, Path("new/out.TIF.compare.png"))
    assert plan_jobs(["in"], out, suffix=".tif", accept_file=True).jobs[0].output == out
    (job,) = plan_jobs(["a.png"], Path("folder.png"), accept_file=True).jobs
    assert job.output == Path("folder.png/a.png")
    for inputs, output, suffix, message in (
        (["a.png", "b.png"], "c.png", None, "c.png is a single file, but there are 2 inputs"),
        (["a.png"], "a.png", None, "result of a.png would replace a.png"),
        (["a.png"], "b.png", ".tif", r"output b.png has another format than .tif"),
    ):
        with pytest.raises(InputError, match=message):
            plan_jobs(inputs, Path(output), suffix=suffix, accept_file=True)


def test_videos_are_taken_by_name_or_pattern(touch):
    touch("a.avi", "B.MP4", "c.png", "in/d.png", "in/e.mp4", "in/f.MP4", "in/f.restored.mp4")
    videos = {".mp4": ".mp4", ".avi": ".mkv"}
    plan = plan_jobs(["a.avi", "B.MP4", "c.png"], None, suffix=".tif", videos=videos)
    assert [str(job.output) for job in plan.jobs] == [
        "a.restored.mkv",
        "B.restored.MP4",
        "c.restored.tif",
    ]
    plan = plan_jobs(["in"], Path("out"), videos=videos)
    assert [str(job.source) for job in plan.jobs] == ["in/d.png"]
    plan = plan_jobs(["in/*.mp4"], None, videos=videos)
    assert [str(job.source) for job in plan.jobs] == ["in/e.mp4"]
    (job,) = plan_jobs(["a.avi"], Path("new.avi"), accept_file=True, videos=videos).jobs
    assert str(job.output) == "new.avi"
    with pytest.raises(InputError, match=r"only images are measured or compared; B.MP4 is a video"):
        plan_jobs(["c.png", "B.MP4"], None, compare=True, videos=videos)


def test_skipped_files_are_counted_and_named(touch):
    """Other formats, links to folders, hidden files, duplicates and comparisons."""
    touch("in/a.png", "in/b.svg", "in/c.gif", "in/.d.png", "in/.e/f.png", "in/a.png.compare.png")
    touch("in/deep/notes.txt", "elsewhere/g.png")
    Path("in/link").symlink_to(Path("elsewhere").absolute())
    Path("in/z.png").symlink_to("a.png")
    Path("in/.hidden_link").symlink_to(Path("elsewhere").absolute())
    plan = plan_jobs(["in"], Path("out"))
    assert [job.source for job in plan.jobs] == [Path("in/a.png")]
    assert set(plan.summary()) == {
        f"skipped 3 ({SKIPPED_OTHER_FORMAT}): in/b.svg, in/c.gif, in/deep/notes.txt",
        f"skipped 1 ({SKIPPED_LINK}): in/link",
        f"skipped 3 ({SKIPPED_HIDDEN}): in/.d.png, in/.e, in/.hidden_link",
        "skipped 1 (duplicate of another input): in/z.png is in/a.png",
        "skipped 1 (output of an earlier run): in/a.png.compare.png",
    }
    assert plan.all_folders_readable
    touch(*(f"in/{number:03}.txt" for number in range(30)))
    line = next(
        line for line in plan_jobs(["in/*"], Path("out")).summary() if SKIPPED_OTHER_FORMAT in line
    )
    assert line.startswith(f"skipped 32 ({SKIPPED_OTHER_FORMAT}): in/000.txt, in/001")
    assert line.endswith("in/019.txt and 12 more")
    matched = "skipped 2 (folder matched by a pattern): in/deep, in/link"
    assert matched in plan_jobs(["in/*"], Path("out")).summary()


def test_an_unreadable_folder_is_skipped(touch, monkeypatch):
    touch("in/a.png", "in/closed/b.png")
    scan = os.scandir

    def denied(path):
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    plan = plan_jobs(["in"], Path("out"))
    assert [job.source for job in plan.jobs] == [Path("in/a.png")]
    assert plan.summary() == [f"skipped 1 ({SKIPPED_UNREADABLE}): in/closed"]
    assert not plan.all_folders_readable
    with pytest.raises(InputError, match="cannot read folder in/closed: Permission denied"):
        plan_jobs(["in/closed"], Path("out"))
    # A data set, in contrast, requires every folder.
    with pytest.raises(InputError, match="cannot read folder in/closed: Permission denied"):
        list_images(Path("in"))


def test_special_files_fail_one_by_one(touch):
    """A named pipe or a broken link in a folder is one bad file among others."""
    touch("in/a.png", "truth/a.png")
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
    with pytest.raises(InputError, match=r"input in/nothing\.png is a broken link"):
        plan_jobs(["in/nothing.png"], Path("out"))


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (["none.png"], {}, "input none.png does not exist"),
        (["empty"], {}, rf"empty contains no .* files; skipped 1 \({SKIPPED_OTHER_FORMAT}\)"),
        (["*.gif"], {}, r"\*.gif contains no .* files"),
        (["a.png", "in/a.png"], {}, "a.png and in/a.png would both be written to out/a.png"),
        (["in/a.png", "in/a.tif"], {"suffix": ".png"}, "would both be written to out/a.png"),
        (["a.png"], {"suffix": ".pgn"}, "no image format '.pgn'; did you mean '.png'"),
        (["a.png"], {"references": Path("none")}, "reference folder none is not a folder"),
        (
            ["more"],
            {"references": Path("truth")},
            "truth contains no reference for any of the 1 im",
        ),
        (["out/z.png"], {}, "input out/z.png is in the output folder out; choose another"),
        (["out/deep/y.png"], {}, "out/deep/y.png is in the output folder"),
        (["out"], {}, r"out contains no .* files; skipped 3 \(output of an"),
        (["truth/b.png"], {"references": Path("out")}, "would replace out/b.png"),
    ],
)
def test_errors_that_involve_several_files_are_found_first(touch, inputs, options, message):
    touch("a.png", "in/a.png", "in/a.tif", "empty/x.txt", "out/z.png", "out/b.png")
    touch("truth/b.png", "more/c.tif", "out/deep/y.png")
    with pytest.raises(InputError, match=message):
        plan_jobs(inputs, Path("out"), **options)


def test_the_output_must_be_a_folder(touch):
    touch("a.png", "file")
    with pytest.raises(InputError, match="output file is not a folder"):
        plan_jobs(["a.png"], Path("file"))


def test_references_and_comparisons_are_matched_by_name(touch):
    touch("in/x/a.jpg", "in/b.png", "truth/x/a.png", "truth/b.png")
    jobs = plan_jobs(["in"], Path("out"), references=Path("truth"), compare=True).jobs
    assert [job.reference for job in jobs] == [Path("truth/b.png"), Path("truth/x/a.png")]
    assert [job.comparison for job in jobs] == [
        Path("out/b.png.compare.png"),
        Path("out/x/a.jpg.compare.png"),
    ]
    # A missing reference is an error of its own file, not of the plan.
    touch("in/x/c.tif")
    jobs = plan_jobs(["in"], Path("out"), references=Path("truth")).jobs
    assert [job.reference for job in jobs] == [
        Path("truth/b.png"),
        Path("truth/x/a.png"),
        Path("truth/x/c.tif"),
    ]
    # A result must not replace the reference that it is measured against.
    touch("out/note.txt")
    with pytest.raises(InputError, match=r"of in/x/c.tif would replace out/c.tif"):
        plan_jobs(["in/x/c.tif"], Path("out"), references=Path("out"))
    Path("in/x/c.tif").unlink()
    # A comparison in a folder is skipped; named explicitly, it is an input.
    touch("in/b.png.compare.png", "truth/b.png.compare.png")
    assert {job.source for job in plan_jobs(["in"], Path("out")).jobs} == {
        Path("in/b.png"),
        Path("in/x/a.jpg"),
    }
    with pytest.raises(InputError, match=r"both be written to out/b.png.compare.png"):
        plan_jobs(["in/b.png", "in/b.png.compare.png"], Path("out"), compare=True)
