"""Benchmarks: the records that the scripts of `experiments/benchmarks` write.

  deconv-jax tables benchmarks/training_step

A part runs its script in a process of its own.
"""

import functools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deconv_jax.errors import InputError
from deconv_jax.io import read_json
from deconv_jax.tables import markdown

VERSION = 1
TIMES = True
SCRIPTS = Path(__file__).parents[1] / "benchmarks"
NAMES = (
    "checkpointing",
    "codec_speed",
    "compiler_options",
    "demo_page",
    "gan_step",
    "input_path",
    "loops",
    "operators",
    "recognition_step",
    "restoration_step",
    "restore_memory",
    "restore_video",
    "startup",
    "stopping",
    "texture_speed",
    "training_step",
    "zoo_speed",
)

Records = Mapping[str, dict[str, Any]]


def _script(data: Path, *, name: str) -> dict[str, Any]:
    del data
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "record.json")
        command = [sys.executable, str(SCRIPTS / f"{name}.py"), "--output", str(output)]
        if subprocess.run(command, check=False).returncode:
            raise InputError(f"the benchmark {name} failed; run: {' '.join(command[:2])}")
        return read_json(output)


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    name: functools.partial(_script, name=name) for name in NAMES
}


def render(records: Records) -> str:
    """Return a section for each benchmark: medians and ratios."""
    sections = []
    for name, record in records.items():
        if "time_ratios" not in record or "cases" in record:  # It has a view of its own.
            continue
        cost, header = record.get("cost", {}), "candidate | median"
        medians = [[name, _milliseconds(ms)] for name, ms in record["median_ms"].items()]
        if cost:
            header += " | compilation, CPU time | temporaries"
            for row in medians:
                of_row = cost.get(row[0])
                seconds = f"{of_row['compile_s']:.1f} s" if of_row else "-"
                row += [seconds, f"{of_row['temporaries_mb']:.0f} MB" if of_row else "-"]
        ratios = [[name, f"{ratio:.3g}"] for name, ratio in record["time_ratios"].items()]
        sections.append(
            f"### `{name}.py`\n\n{_sentence(record['measured'])}.\n\n"
            f"{markdown(header, medians, record)}\n\n"
            f"{markdown('time ratio | median / median', ratios, record)}\n\n"
            f"{protocol_sentence(record)}"
        )
    return "\n\n".join(sections)


def _milliseconds(ms: float) -> str:
    return f"{ms:,.0f} ms" if ms >= 1000 else f"{ms:.4g} ms"


def _operators(records: Records) -> str:
    """Return a row for each case: the speed of both operators relative to their peers."""
    record = records["operators"]
    by_case: dict[str, dict[str, Any]] = {}
    for row in record["cases"]:
        by_case.setdefault(row["case"], {})[row["operator"]] = row
    rows = []
    for case, operators in by_case.items():
        transposed, conv = operators["conv_transpose"], operators["conv"]
        rows.append(
            [
                case,
                f"{transposed['median_ms']['deconv_jax']:,.4g} ms",
                f"{transposed['speed']['flax.linen']:.3g}",
                f"{transposed['speed']['plain lax']:.2f}",
                f"{transposed['speed']['torch']:.2f}",
                f"{conv['median_ms']['deconv_jax']:,.4g} ms",
                f"{conv['speed']['plain lax']:.2f}",
                f"{conv['speed']['torch']:.2f}",
            ]
        )
    means = record["geometric_mean_speed"]
    rows.append(
        [
            "**geometric mean**",
            "",
            f"**{means['conv_transpose against flax.linen']:.3g}**",
            f"**{means['conv_transpose against plain lax']:.2f}**",
            f"**{means['conv_transpose against torch']:.2f}**",
            "",
            f"**{means['conv against plain lax']:.2f}**",
            f"**{means['conv against torch']:.2f}**",
        ]
    )
    header = (
        "case | conv_transpose | against flax.linen | against plain lax | against torch | conv | "
        "against plain lax | against torch"
    )
    memory = [
        [
            row["case"],
            *(f"{row['peak_mb'][who]:.1f} MB" for who in ("deconv_jax", "torch")),
            f"{row['peak_mb']['deconv_jax'] / row['peak_mb']['torch']:.2f}",
        ]
        for row in record["peak_memory"]
    ]
    memory_header = "peak memory of conv_transpose | deconv_jax | torch | ratio"
    return (
        f'{_sentence(record["measured"])}; "against X" is the speed relative to X.\n\n'
        f"{markdown(header, rows, record)}\n\n"
        f"{markdown(memory_header, memory, record)}\n\n"
        f"{protocol_sentence(record)}"
    )


def _operator_speed(records: Records) -> str:
    """Return one sentence that compares both operators with their peers."""
    record = records["operators"]
    means = record["geometric_mean_speed"]
    memory = [
        row["peak_mb"]["deconv_jax"] / row["peak_mb"]["torch"] for row in record["peak_memory"]
    ]
    return (
        "On a CPU, with the gradients of input and kernel, `conv_transpose` is "
        f"{means['conv_transpose against flax.linen']:.0f} times as fast as "
        f"`flax.linen.ConvTranspose` and {means['conv_transpose against torch']:.2f} times as fast "
        f"as PyTorch's. `conv` is {means['conv against torch']:.2f} times as fast as PyTorch's (geometric means). "
        f"The peak memory of `conv_transpose` is {min(memory):.1f} to {max(memory):.1f} times PyTorch's."
    )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


def protocol_sentence(record: Mapping[str, Any]) -> str:
    """Return how a benchmark was measured, and on what."""
    return (
        f"Protocol: {record['protocol']}. {record['rounds']} rounds, {record['threads']} "
        f"threads, {record['processor'] or 'processor unknown'}; jax "
        f"{record['versions']['jax']}; commit {record['commit'][:7]}; load average "
        f"{record['load_average'][0]}."
    )


def _restore_memory(records: Records) -> str:
    """Return a row for each case: peak memory for a large image and for a small one."""
    record = records["restore_memory"]
    rows = [
        [
            row["case"],
            f"{row['image_mb']:,.0f} MB",
            f"**{row['peak_mb'] / 1e3:.2f} GB**",
            f"{row['peak_mb_of_64_pixels_a_side'] / 1e3:.2f} GB",
            f"{row['free_mb_before'] / 1e3:.1f} GB",
        ]
        for row in record["peak_memory"]
    ]
    header = (
        "image and network | one copy in float32 | peak | peak for 64 x 64 pixels | free before"
    )
    return (
        f"{_sentence(record['measured'])}.\n\n{markdown(header, rows, record)}\n\n"
        f"Protocol: {record['protocol']}."
    )


def _restore_video(records: Records) -> str:
    """Return a row for each case: what was kept, speed, and peak memory."""
    record = records["restore_video"]
    rows = [
        [
            row["case"],
            f"{row['size'][0]} x {row['size'][1]}",
            f"{row['frames']:,} of {row['frames_of_clip']:,}",
            "all equal" if row["timestamps_equal"] else "**differ**",
            f"{row['audio_packets']:,}, {'all equal' if row['audio_equal'] else '**differ**'}",
            f"{row['frames_per_second']:.2f}",
            " ".join(f"{peak / 1e3:.2f}" for peak in row["peak_mb_by_quarter"]),
        ]
        for row in record["videos"]
    ]
    header = (
        "network | result | frames | timestamps | audio packets | frames/s | "
        "peak memory by quarter of the run, GB"
    )
    return (
        f"{markdown(header, rows, record)}\n\n"
        f"Protocol: {record['protocol']}. {record['threads']} threads; commit "
        f"{record['commit'][:7]}; load average {record['load_average'][0]}."
    )


def _restore_video_kept(records: Records) -> str:
    """Return a sentence about what a long video keeps, and its memory."""
    row = max(records["restore_video"]["videos"], key=lambda row: row["frames"])
    equal = row["timestamps_equal"] and row["audio_equal"]
    peaks = ", ".join(f"{peak / 1e3:.2f}" for peak in row["peak_mb_by_quarter"])
    return (
        f"A clip of {row['frames_of_clip']} frames with sound: the result has {row['frames']} frames; all "
        f"timestamps and all {row['audio_packets']:,} audio packets are {'equal' if equal else 'NOT equal'}. "
        f"The peak memory in the four quarters of the run was {peaks} GB."
    )


def _training_ratios(records: Records) -> str:
    """Return one line that compares the training step with its peers."""
    ratios = records["training_step"]["time_ratios"]
    parts = [f"{name} = {ratio:.3g}" for name, ratio in ratios.items()]
    return f"Time of a training step of the MNIST autoencoder on a CPU: {', '.join(parts)}."


def _feeding(records: Records) -> str:
    """Return a row for each network and cache: CPU time of the input per image, and cores to feed a chip."""
    record = records["input_path"]
    rows = [
        [
            row["network"],
            f"{row['flops_per_image'] / 1e9:.3g} GFLOPs",
            f"{row['images_per_second']:,.0f}",
            f'`cache="{row["cache"]}"`',
            f"{row['cpu_ms_per_image']:.3g} ms",
            f"{1e3 / row['cpu_ms_per_image']:,.0f}",
            f"{row['cores']:,.2g}" if row["cores"] < 10 else f"{row['cores']:,.0f}",
        ]
        for row in record["feeding"]
    ]
    header = (
        "network | per image | images/s of the chip | input | CPU time per image | images/s per core | "
        "cores"
    )
    return f"{markdown(header, rows, record)}\n\n{_sentence(record['feeding_assumption'])}."


def _stopping(records: Records) -> str:
    """Return a row for each case: seconds from the signal to the checkpoint and to the end."""
    record = records["stopping"]
    medians = record["median_ms"]
    cases = [name.removesuffix(_SAVED) for name in medians if name.endswith(_SAVED)]
    rows = [
        [case, f"{medians[case + _SAVED] / 1e3:.2f} s", f"{medians[case + _ENDED] / 1e3:.2f} s"]
        for case in cases
    ]
    return (
        f"{markdown('run | signal to checkpoint | signal to end', rows, record)}\n\n"
        f"{protocol_sentence(record)}"
    )


def _demo_page(records: Records) -> str:
    """Return a row for each model: size, loading time, and restoration time of the page and of Python."""
    record = records["demo_page"]
    medians, ratios, sizes = record["median_ms"], record["time_ratios"], record["bytes"]
    rows = []
    for model, load in record["model_load_ms"].items():
        page, *others = (name for name in medians if name.startswith(f"{model}: "))
        row = [f"`{model}`", f"{sizes[model] / 1e6:.2f} MB", f"{load / 1e3:.1f} s"]
        row.append(f"**{medians[page] / 1e3:.1f} s**")
        for other in others:
            row.append(f"{medians[other] / 1e3:.1f} s ({ratios[f'{page} / {other}']:.2g})")
        rows.append(row)
    header = "model | file | loading, with ONNX Runtime | page | `deconv-jax restore` | ONNX Runtime in Python"
    return (
        f"{_sentence(record['measured'])}; in parentheses: how many times as long the page takes.\n\n"
        f"{markdown(header, rows, record)}\n\n"
        f"The page is {sizes['page'] / 1e6:.2f} MB and is ready after {medians['first load'] / 1e3:.1f} s. "
        f"Each model loads ONNX Runtime, {sizes['runtime'] / 1e6:.1f} MB, in new workers.\n\n"
        f"{protocol_sentence(record)}"
    )


_SAVED, _ENDED = ", to the checkpoint", ", to the end"

VIEWS = {
    "demo_page": _demo_page,
    "feeding": _feeding,
    "stopping": _stopping,
    "operators": _operators,
    "operator_speed": _operator_speed,
    "restore_memory": _restore_memory,
    "restore_video": _restore_video,
    "restore_video_kept": _restore_video_kept,
    "training_ratios": _training_ratios,
}
