"""Train an experiment, or evaluate a trained one."""

import dataclasses
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax

from deconv_jax.data.overlap import overlaps
from deconv_jax.data.sources import Source
from deconv_jax.experiment import Experiment
from deconv_jax.initial_weights import copy_weights, describe_copy, read_initial_weights
from deconv_jax.io import kind_of, make_folder, read_json, write_png
from deconv_jax.training.checkpoint import Checkpoints, RestoredCheckpoint
from deconv_jax.training.loop import LoopData, fit
from deconv_jax.training.loop_data import (
    device_batches,
    first_example,
    open_loop_data,
    open_splits,
    picture_examples,
)
from deconv_jax.training.parallel import Devices
from deconv_jax.training.profiling import StepProfiler, check_profiled_steps
from deconv_jax.training.run_log import RunLog
from deconv_jax.training.state import TrainState
from deconv_jax.training.stopping import StopRequests
from deconv_jax.viz.plots import draw
from deconv_jax.workdir import (
    CHECKPOINTS,
    INITIAL_WEIGHTS,
    INPUTS,
    Checkpoint,
    check_unchanged,
    check_workdir,
    has_checkpoint,
    load_state,
    open_workdir,
    provenance,
    read_result,
    workdir_lock,
    write_description,
    write_inputs,
    write_result,
)


def train(
    experiment: Experiment, workdir: Path, *, profile: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Train an experiment, or resume it from the last checkpoint in its workdir.

    The workdir receives checkpoints/, config.json, inputs.json, metrics.jsonl, tensorboard/, pictures/ and,
    at the end of training, result.json. With `init_from`, it also receives initial_weights.json. A finished
    run is not trained again. A folder of images without subfolders for the splits is split at random.
    Progress and notes go to standard error. Must run in the main thread, because it handles signals; a second
    SIGINT raises KeyboardInterrupt at once.

    Args:
      experiment: Experiment to train.
      workdir: Folder of the run.
      profile: Start and stop of the steps whose profiler trace the first process writes to profile/; see
        `StepProfiler`. None for no trace. It does not affect the result.

    Returns:
      The content of result.json: "metrics" and "baseline", each {"test": {name: value}}; "config", "step",
      "protocol" (definition of the metrics), "counts" (examples by split), "data" (fingerprint by split),
      "overlapping_splits", "parameters" (their number), "seed", "resumed_at_step" (0 if not resumed),
      "wall_time_s" (of the last command); with `init_from`, "initial_weights" (`initial_weights.copy_weights`);
      and the keys of `workdir.provenance`.

    Raises:
      InputError: The config does not fit the data, the devices or the workdir; the data or the initial
        weights cannot be opened; `profile` is not a range of steps of the run; another process is using the
        workdir; the disk is full; or, as `Diverged`, the loss or the gradient norm became NaN or infinite.
      Interrupted: After SIGTERM or SIGINT, once the state is saved.
    """
    started, origin = time.perf_counter(), provenance()
    experiment = _with_splits(experiment)
    task, training = experiment.task, experiment.training
    if profile is not None:
        check_profiled_steps(
            *profile, num_steps=training.num_steps, steps_per_call=training.steps_per_call
        )
    check_workdir(workdir, experiment)
    finished = _finished_result(workdir, experiment)
    if finished is not None:
        return finished
    with workdir_lock(workdir):
        check_workdir(workdir, experiment)  # Another process may have written to it since.

        # 1. Devices and data.
        devices = Devices.all(training.compiler, shard_optimizer=training.shard_optimizer)
        devices.check_batch_size(training.batch_size)
        sources = open_splits(experiment.data)
        data = open_loop_data(experiment.data, training, experiment.seed, devices, sources)
        example = first_example(sources["train"])

        # 2. Initial state.
        state = devices.init(lambda key: task.init(key, example), jax.random.key(experiment.seed))
        copied = None
        if experiment.init_from is not None and not has_checkpoint(workdir):
            state, copied = _copy_initial_weights(state, experiment, devices)
        write_description(workdir, experiment, example, copied)

        with Checkpoints(
            workdir / CHECKPOINTS, monitor=task.monitor, config=experiment.to_dict()
        ) as checkpoints:
            # 3. The last checkpoint, if there is one.
            restored = _restore(checkpoints, experiment, devices, state, data)
            state = restored.state if restored else state
            resumed_at = restored.step if restored else None

            first_process = jax.process_index() == 0
            with (
                StopRequests() as stops,
                RunLog(
                    workdir,
                    resumed_at=resumed_at,
                    last_step=training.num_steps,
                    batch_size=training.batch_size,
                    writes=first_process,
                ) as log,
                StepProfiler(
                    profile if first_process else None, workdir, resumed_at=resumed_at, say=log.say
                ) as profiler,
            ):
                overlapping = _warn_of_overlaps(log, sources)
                if resumed_at is not None:
                    log.say(f"resuming from the checkpoint of step {resumed_at}")

                # 4. Train.
                state = fit(
                    task,
                    state,
                    data,
                    training=training,
                    devices=devices,
                    checkpoints=checkpoints,
                    log=log,
                    stops=stops,
                    profiler=profiler,
                    resumed_at=resumed_at,
                    evaluated=restored is None or restored.evaluated,
                )

                # 5. Evaluate on the test split.
                batches = device_batches(training, devices, sources["test"])
                metrics = task.evaluate(state, stops.until_agreed(batches, training.num_steps))
                log.evaluation(training.num_steps, "test", metrics)

        # 6. Write the result.
        result = {
            "config": experiment.to_dict(),
            "step": training.num_steps,
            "metrics": {"test": metrics},
            "baseline": {"test": task.baseline(sources["train"], sources["test"])},
            "protocol": task.protocol,
            "counts": {name: len(source) for name, source in sources.items()},
            "data": {name: dict(source.fingerprint) for name, source in sources.items()},
            "overlapping_splits": overlapping,
            "parameters": sum(a.size for a in jax.tree.leaves(state.params)),
            "seed": experiment.seed,
            "resumed_at_step": resumed_at or 0,
            **(
                {"initial_weights": read_json(workdir / INITIAL_WEIGHTS)}
                if experiment.init_from
                else {}
            ),
            **origin,
            "wall_time_s": round(time.perf_counter() - started, 2),
        }
        write_result(workdir, result)
    return result


def evaluate(
    workdir: Path,
    *,
    checkpoint: Checkpoint = "last",
    split: Literal["train", "validation", "test"] = "test",
    data_dir: str | None = None,
    plots: Path | None = None,
) -> dict[str, Any]:
    """Return the metrics of a trained model on a split.

    Args:
      workdir: Folder of the run.
      checkpoint: "last", "best" on the validation split, or a step.
      split: Split to evaluate.
      data_dir: Folder of the data, if it has moved since training.
      plots: Folder for NAME.png files: the task's pictures of the first 12 examples and its plots of the
        whole split. It is created if missing, and existing files are replaced. None writes none.

    Returns:
      {"step": step of the checkpoint, "split": split, "metrics": {name: value}}

    Raises:
      InputError: The folder is not the workdir of a run; the checkpoint is missing or
        damaged; the data cannot be opened or the split is empty; or `plots` cannot be written.
    """
    experiment = open_workdir(workdir)
    if plots is not None:  # Fail before the evaluation, which takes time.
        make_folder(plots)
    if data_dir is not None:
        data = dataclasses.replace(experiment.data, data_dir=data_dir)
        experiment = dataclasses.replace(experiment, data=data)
    task, training, devices = experiment.task, experiment.training, Devices.all()
    source = experiment.data.open(split)
    example = first_example(source)
    step, state = load_state(workdir, checkpoint, lambda key: task.init(key, example))
    metrics = task.evaluate(state, device_batches(training, devices, source))
    if plots is not None:
        pictures = task.pictures(state, picture_examples(devices, source))
        drawn = task.plots(state, device_batches(training, devices, source), metrics)
        for name, picture in (pictures | {n: draw(plot) for n, plot in drawn.items()}).items():
            write_png(plots / f"{name}.png", picture)
    return {"step": step, "split": split, "metrics": metrics}


def _with_splits(experiment: Experiment) -> Experiment:
    """Return the experiment with random splits for a folder of images without any, and print a note."""
    data = experiment.data.with_splits()
    if data != experiment.data and jax.process_index() == 0:
        print(
            f"note: {data.source} has no subfolders train, validation and test; its files are split at "
            f"random: data.train_split={data.train_split!r}, "
            f"data.validation_split={data.validation_split!r}, data.test_split={data.test_split!r}",
            file=sys.stderr,
        )
    return dataclasses.replace(experiment, data=data)


def _copy_initial_weights(
    state: TrainState, experiment: Experiment, devices: Devices
) -> tuple[TrainState, dict[str, Any]]:
    """Return the state with the weights that `init_from` names, and their description; print a note."""
    assert experiment.init_from is not None

    def say(line: str) -> None:
        if jax.process_index() == 0:
            print(f"note: {line}", file=sys.stderr)

    weights = read_initial_weights(experiment.init_from, experiment.task, say)
    state, copied = copy_weights(state, weights, devices, experiment.init_exclude or ())
    say("\n  ".join(describe_copy(copied)))
    return state, copied


def _finished_result(workdir: Path, experiment: Experiment) -> dict[str, Any] | None:
    """Return the result of a finished run, or None; add inputs.json to runs of older versions."""
    result = read_result(workdir)
    if result is not None and jax.process_index() == 0 and kind_of(workdir / INPUTS) is None:
        write_inputs(workdir, first_example(experiment.data.open("train")))
    return result


def _restore(
    checkpoints: Checkpoints,
    experiment: Experiment,
    devices: Devices,
    state: TrainState,
    data: LoopData,
) -> RestoredCheckpoint | None:
    """Return the last checkpoint, and move the data iterator there; None if there is none."""
    restored = checkpoints.restore(state, devices.state_shardings(state))
    if restored is None:
        return None
    if restored.config is not None:
        before = Experiment.from_dict(restored.config)
        check_unchanged(f"the checkpoint of step {restored.step}", before, experiment)
    data.train.set_state(restored.iterator_state)
    return restored


def _warn_of_overlaps(log: RunLog, sources: Mapping[str, Source]) -> dict[str, int]:
    """Return the number of examples that splits share, by pair of splits, and log warnings."""
    shared = overlaps({name: source.files for name, source in sources.items()})
    for pair, count in shared.items():
        log.say(
            f"warning: splits overlap, {pair}: {count} files or records, so metrics are partly measured on "
            "images of another split; "
            "set data.train_split, data.validation_split and data.test_split to disjoint splits"
        )
    return shared
