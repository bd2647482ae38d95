"""A Slurm of one node on this machine, which needs root and Debian's packages slurm-wlm and munge."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "squeue", "srun")

_CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
SwitchType=switch/none
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def available():
    """Return whether the programs are installed and this process may start them."""
    path = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
    return os.getuid() == 0 and all(shutil.which(name, path=path) for name in PROGRAMS)


@contextlib.contextmanager
def one_node_slurm(folder):
    """Run the daemons in a `with` block, which receives the environment for the commands."""
    environment = os.environ | {
        "PATH": f"{os.environ['PATH']}{os.pathsep}/usr/sbin",
        "SLURM_CONF": str(folder / "slurm.conf"),
    }
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
    (folder / "munge.key").chmod(0o600)
    ports = dict(zip(("controller", "daemon"), _free_ports(2), strict=True))
    host = socket.gethostname().partition(".")[0]
    (folder / "slurm.conf").write_text(_CONFIG.format(folder=folder, host=host, **ports))
    munge = [f"--{name}={folder}/munge.{name}" for name in ("socket", "pid-file", "log-file")]
    munge += [f"--key-file={folder}/munge.key", f"--seed-file={folder}/munge.seed"]
    # "--force" accepts the rights of the temporary folder.
    daemons = (["munged", "-F", "--force", *munge], ["slurmctld", "-D"], ["slurmd", "-D"])
    with contextlib.ExitStack() as stack:
        for command in daemons:
            output = stack.enter_context((folder / f"{command[0]}.out").open("w"))
            process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            if command[0] == "munged":
                _wait(lambda: (folder / "munge.socket").exists(), 20)
        _wait(lambda: b"idle" in _output(["sinfo", "-h", "-o", "%T"], environment), 60)
        try:
            yield environment
        finally:
            subprocess.run(["scancel", "--user=root"], env=environment, check=False)
            _wait(lambda: not _output(["squeue", "-h"], environment).strip(), 60)


def _output(command, environment):
    return subprocess.run(command, env=environment, capture_output=True, check=False).stdout


def _wait(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
