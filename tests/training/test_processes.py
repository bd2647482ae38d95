"""Which GPUs a process of a run uses."""

import json
import os
import subprocess
import sys

import pytest

from deconv_jax.errors import InputError
from deconv_jax.training.parallel import local_gpus


def slurm_task(index, per_node, gpus, node=0):
    return {
        "SLURM_LOCALID": str(index),
        "SLURM_NODEID": str(node),
        "SLURM_STEP_TASKS_PER_NODE": per_node,
        "CUDA_VISIBLE_DEVICES": gpus,
    }


@pytest.mark.parametrize(
    ("environment", "gpus"),
    [
        ({}, None),
        (slurm_task(3, "4(x2)", "0,1,2,3"), [3]),
        (slurm_task(1, "4,2", "0,1,2,3", node=1), [2, 3]),
        (slurm_task(1, "3(x2),2", "0,1,2,3", node=2), [2, 3]),
        # A single task uses all; no task takes a GPU if there is none.
        (slurm_task(0, "1(x2)", "0,1,2,3"), []),
        (slurm_task(0, "1", "0"), []),
        (slurm_task(1, "2", "NoDevFiles"), []),
        (slurm_task(1, "2", ""), []),
        (
            {
                "OMPI_COMM_WORLD_LOCAL_RANK": "1",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
                "CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b",
            },
            [1],
        ),
    ],
)
def test_tasks_of_a_node_share_its_gpus(environment, gpus):
    assert local_gpus(environment) == gpus


@pytest.mark.parametrize(("tasks", "gpus"), [("8", "0"), ("3", "0,1,2,3")])
def test_tasks_that_cannot_share_the_gpus_are_rejected(tasks, gpus):
    with pytest.raises(InputError, match=f"multiple of the {tasks} tasks on this node"):
        local_gpus(slurm_task(0, tasks, gpus))


def test_gpus_that_slurm_does_not_show_are_an_error():
    """Slurm 22.05 sets these variables for tasks started with --gpu-bind=none."""
    environment = slurm_task(0, "2", "") | {"SLURM_JOB_GPUS": "0,1"}
    del environment["CUDA_VISIBLE_DEVICES"]
    with pytest.raises(InputError, match="Slurm shows none to this task"):
        local_gpus(environment)


ONE_TASK = """
import json, os, sys
import jax
from deconv_jax.errors import InputError
from deconv_jax.training.parallel import initialize_processes

try:
    initialize_processes("auto")
except InputError as error:
    print(error)
os.environ |= json.loads(sys.argv[1])
initialize_processes("auto")
print(jax.process_count(), jax.config.values["jax_cuda_visible_devices"])
"""


def test_a_single_slurm_task_keeps_all_gpus_and_no_cluster_is_an_error():
    """JAX by itself would restrict the process to the first GPU."""
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost"}
    job |= {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"} | slurm_task(0, "1", "0,1")
    command = [sys.executable, "-c", ONE_TASK, json.dumps(job)]
    run = subprocess.run(command, capture_output=True, text=True)
    error, *rest = run.stdout.splitlines()
    assert error.startswith("--distributed found neither a Slurm step"), run.stderr
    assert rest == ["1 all"], run.stderr
