"""Recipes of `launch/`: valid for the programs that take them, and true to the exit codes of training."""

import os
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from jax._src.clusters.k8s_cluster import K8sCluster

from deconv_jax.cli import EXIT_INPUT_ERROR, EXIT_INTERRUPTED, main
from deconv_jax.launch import TEMPLATES, job_name, render

ROOT = Path(__file__).parents[1]
TOOLS = Path(sys.executable).parent
WORKDIR = "/shared/runs/it's $(a) test"
KINDS = {
    "slurm": ["--nodes=2", "--gpus=8"],
    "jobset": ["--nodes=2", "--image=registry/deconv-jax:cuda", "--claim=data"],
    "xpk": ["--cluster=c", "--device=v5litepod-16", "--image=r/i:tpu", "--storage=s"],
    "tpu-vm": ["--device=v5litepod-16", "--zone=z", "--version=v2", "--image=r/i", "--bucket=b"],
    "local": ["--processes=3"],
}
SCRIPTS = [kind for kind in KINDS if kind != "jobset"]
OVERRIDE = "--config.data.data_dir=/shared/a b"


def arguments(kind, *flags, workdir=WORKDIR):
    config = "experiments/autoencoding/digits.py"
    flags = [*KINDS[kind], *flags]
    return ["launch", kind, "--config", config, "--workdir", workdir, *flags, OVERRIDE]


@pytest.fixture
def rendered(capsys):
    def text(kind, *flags):
        assert main([*arguments(kind, *flags), "--dry-run"]) == 0
        return capsys.readouterr().out

    return text


@pytest.fixture
def stubs(tmp_path, monkeypatch):
    """Replace programs by shell scripts, and return the file to which they append their arguments."""
    calls, folder = tmp_path / "calls", tmp_path / "bin"
    folder.mkdir()

    def install(**programs):
        for name, script in programs.items():
            path = folder / name
            log = f"{{ printf '%s\\0' {name} \"$@\"; printf '\\n\\0'; }} >> {calls}"
            path.write_text(f"#!/usr/bin/env bash\n{log}\n{script}\n")
            path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

        def recorded():
            words, calls_made = calls.read_text().split("\0")[:-1] if calls.exists() else [], [[]]
            for word in words:
                if word == "\n":
                    calls_made.append([])
                else:
                    calls_made[-1].append(word)
            return calls_made[:-1]

        return recorded

    return install


def run(script, **variables):
    command = ["bash", "-c", script]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)


def test_templates_are_those_of_the_clone():
    assert TEMPLATES.resolve() == ROOT / "launch"


@pytest.mark.parametrize("kind", KINDS)
def test_every_word_has_a_value(rendered, kind):
    assert not re.search(r"__[A-Z]+__", rendered(kind))


@pytest.mark.parametrize("kind", SCRIPTS)
def test_scripts_pass_shellcheck(rendered, kind):
    # SC2016: a dollar sign in single quotes, here that of the workdir.
    command = [TOOLS / "shellcheck", "--shell=bash", "--exclude=SC2016", "-"]
    checked = subprocess.run(command, input=rendered(kind), capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_dockerfile_passes_hadolint():
    command = [TOOLS / "hadolint", ROOT / "launch" / "Dockerfile"]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_image_has_all_that_the_dockerfile_copies():
    copied = re.findall(
        r"^COPY (.+) \S+$", (ROOT / "launch" / "Dockerfile").read_text(), re.MULTILINE
    )
    names = {name for line in copied for name in line.split()}
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"}
    assert names == kept
    assert all((ROOT / name).exists() for name in names)


def test_manifests_match_the_schema_of_kubernetes(rendered):
    *account, jobset = yaml.safe_load_all(rendered("jobset"))
    job = jobset["spec"]["replicatedJobs"][0]["template"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}} | job
    for manifest in (*account, job):
        kubernetes_validate.validate(manifest, "1.33", strict=True)
    # The schema of JobSet is not part of Kubernetes.
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert set(jobset["spec"]) == {"failurePolicy", "replicatedJobs"}
    policy = jobset["spec"]["failurePolicy"]
    assert set(policy) == {"maxRestarts", "rules"}
    for rule in policy["rules"]:
        assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
        assert rule["action"] == "FailJobSet"
    pods = job["spec"]["template"]["spec"]
    assert pods["serviceAccountName"] == account[0]["metadata"]["name"]
    assert {m["name"] for m in pods["containers"][0]["volumeMounts"]} == {
        volume["name"] for volume in pods["volumes"]
    }


def test_jobset_restarts_unless_the_input_is_invalid(rendered):
    *_, jobset = yaml.safe_load_all(rendered("jobset"))
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    # The first failed pod ends the job, with a reason of its own if the exit code is that of invalid input.
    assert job["backoffLimit"] == 0
    (rule,) = job["podFailurePolicy"]["rules"]
    codes = {"containerName": "train", "operator": "In", "values": [EXIT_INPUT_ERROR]}
    assert rule == {"action": "FailJob", "onExitCodes": codes}
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]


def trained_with(words):
    """Assert that the words are those of `deconv-jax train` with the flags of `arguments`."""
    start = words.index("train")
    config, workdir = words[start + 1 : start + 3], words[start + 3 : start + 5]
    assert config == ["--config", "experiments/autoencoding/digits.py"]
    assert workdir == ["--workdir", WORKDIR]
    assert words[start + 5] == OVERRIDE
    assert words[start + 6] == "--distributed"


def test_arguments_reach_training_unchanged_under_slurm(rendered, stubs):
    calls = stubs(srun="exit 0", scontrol="")
    assert run(rendered("slurm")).returncode == 0
    (call,) = calls()
    assert call[0] == "srun"
    trained_with(call)


def test_arguments_reach_training_unchanged_on_kubernetes(rendered):
    *_, jobset = yaml.safe_load_all(rendered("jobset"))
    pods = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    trained_with([word.replace("$$(", "$(") for word in pods["containers"][0]["args"]])
    assert "$$(a)" in pods["containers"][0]["args"][4]


def test_arguments_reach_training_unchanged_through_xpk(stubs):
    calls = stubs(xpk="")
    code = [sys.executable, "-m", "deconv_jax.cli", *arguments("xpk")]
    assert subprocess.run(code, cwd=ROOT, check=False).returncode == 0
    (call,) = calls()
    assert f"--restart-on-exit-codes={EXIT_INTERRUPTED}" in call
    trained_with(shlex.split(call[-1].removeprefix("--command=")))


@pytest.mark.parametrize("code", [0, 1, EXIT_INPUT_ERROR, EXIT_INTERRUPTED, 137])
def test_slurm_requeues_only_a_saved_run(rendered, stubs, code):
    calls = stubs(srun=f"exit {code}", scontrol="")
    assert run(rendered("slurm"), SLURM_JOB_ID="7").returncode == code
    requeued = [call for call in calls() if call[0] == "scontrol"]
    assert requeued == ([["scontrol", "requeue", "7"]] if code == EXIT_INTERRUPTED else [])


@pytest.mark.parametrize(
    ("codes", "returned"),
    [
        ((0, 0), 0),
        ((EXIT_INTERRUPTED, EXIT_INTERRUPTED), EXIT_INTERRUPTED),
        ((EXIT_INTERRUPTED, EXIT_INPUT_ERROR), EXIT_INPUT_ERROR),
        ((137, EXIT_INTERRUPTED, 0), 137),
    ],
)
def test_local_returns_the_code_of_a_failed_process(tmp_path, codes, returned):
    train = tmp_path / "train"
    listed = " ".join(map(str, codes))
    train.write_text(
        "#!/usr/bin/env bash\n"
        f'IFS=, read -r _ index _ <<< "${{@: -1}}"; codes=({listed}); exit "${{codes[index]}}"\n'
    )
    train.chmod(0o755)
    script = render("local.sh", processes=len(codes), train=train, python=sys.executable)
    assert run(script).returncode == returned


GCLOUD = """
case "$4" in
  describe) cat state 2> /dev/null ;;
  create) echo READY > state ;;
  ssh) case "$*" in *"docker run"*) : ;; *) exit 0 ;; esac
    code=$(head -n 1 codes); sed -i 1d codes
    if [ "$code" = preempted ]; then echo PREEMPTED > state; exit 255; fi
    echo "deconv-jax exited with $code"; echo "deconv-jax exited with $code" ;;
esac"""


@pytest.mark.parametrize(
    ("codes", "last", "created"),
    [
        (["0"], 0, 1),
        ([str(EXIT_INTERRUPTED), "1", "0"], 0, 1),
        (["preempted", "0"], 0, 2),
        ([str(EXIT_INPUT_ERROR)], EXIT_INPUT_ERROR, 1),
    ],
)
def test_tpu_vm_repeats_until_training_ends(
    rendered, stubs, tmp_path, monkeypatch, codes, last, created
):
    calls, script = stubs(gcloud=GCLOUD), rendered("tpu-vm").replace("delay=60", "delay=0")
    monkeypatch.chdir(tmp_path)
    Path("codes").write_text("\n".join(codes) + "\n")
    done = run(script)
    assert done.returncode == last, done.stderr
    actions = [call[4] for call in calls()]
    assert actions.count("create") == created
    # Each attempt prepares the workers and runs.
    assert actions.count("ssh") == 2 * len(codes)
    (command,) = {call[-1] for call in calls() if "docker run" in call[-1]}
    trained_with(shlex.split(command.removeprefix("--command=").partition(";")[0]))


def test_submits_to_kubernetes_in_two_steps(stubs):
    calls = stubs(kubectl="cat > /dev/null")
    assert main(arguments("jobset")) == 0
    assert calls() == [["kubectl", verb, "-f", "-"] for verb in ("apply", "create")]


def test_reports_a_missing_or_failing_program(stubs, capsys, monkeypatch):
    stubs(sbatch="cat > /dev/null; exit 1")
    assert main(arguments("slurm")) == EXIT_INPUT_ERROR
    assert "`sbatch` failed with exit code 1" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "/nowhere")
    for kind, program in {"slurm": "sbatch", "jobset": "kubectl", "tpu-vm": "gcloud"}.items():
        assert main(arguments(kind)) == EXIT_INPUT_ERROR
        assert f"{program} is not installed on this machine" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (arguments("slurm", "--tasks=3"), "--gpus must be a multiple of --tasks (3); got 8"),
        (arguments("slurm", "--nodes=0"), "--nodes must be at least 1; got 0"),
        (arguments("slurm", "--name=A job"), "--name must be at most 40 lower-case letters"),
        (arguments("local", "--processes=1"), "--processes must be at least 2; got 1"),
        (arguments("jobset", workdir="runs/x"), "--workdir must be in /shared"),
        (arguments("xpk", workdir="/shared/../x"), "--workdir must be in /shared"),
        (
            arguments("xpk", "--config=/home/me/digits.py:x=1"),
            "--config must be relative to the clone",
        ),
        (arguments("tpu-vm", "--bucket=gs://b"), "--bucket must be the name of a bucket"),
        (arguments("xpk", "--image=a b"), "--image must be letters, digits and"),
        (arguments("local", workdir="gs://bucket/x"), "mount the bucket as a folder"),
        (arguments("slurm", "--config.training.num_step=3"), "num_step"),
    ],
)
def test_invalid_input_is_reported_before_anything_is_submitted(capsys, words, said):
    assert main([*words, "--dry-run"]) == EXIT_INPUT_ERROR
    captured = capsys.readouterr()
    assert said in captured.err
    assert not captured.out


@pytest.mark.parametrize(
    ("workdir", "name"),
    [("runs/Digits_16", "digits-16"), ("runs/2024-x-", "x"), ("a" * 50, "a" * 40)],
)
def test_job_is_named_after_the_workdir(workdir, name):
    assert job_name(None, Path(workdir)) == name


def test_service_account_may_do_what_jax_asks(rendered, monkeypatch):
    """Run JAX's own detection on objects of the rendered JobSet, and record which rights it uses."""
    *account, jobset = yaml.safe_load_all(rendered("jobset"))
    name, used = jobset["metadata"]["name"], set()
    spec = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]

    def answer(group, resource, verb, value):
        def call(*_, **__):
            used.add((group, resource, verb))
            return value

        return call

    owner = types.SimpleNamespace(kind="Job", controller=True)
    pod = types.SimpleNamespace(
        metadata=types.SimpleNamespace(
            labels={"job-name": f"{name}-train-0"}, owner_references=[owner], name="pod"
        ),
        spec=types.SimpleNamespace(subdomain=name),
    )
    job = types.SimpleNamespace(
        metadata=types.SimpleNamespace(
            name=f"{name}-train-0", labels={"jobset.sigs.k8s.io/jobset-name": name}
        ),
        spec=types.SimpleNamespace(parallelism=spec["parallelism"]),
    )
    core = types.SimpleNamespace(
        list_namespaced_pod=answer("", "pods", "list", types.SimpleNamespace(items=[pod])),
        list_namespaced_service=answer("", "services", "list", types.SimpleNamespace(items=[])),
    )
    batch = types.SimpleNamespace(read_namespaced_job=answer("batch", "jobs", "get", job))
    monkeypatch.setattr(K8sCluster, "_core_api", core, raising=False)
    monkeypatch.setattr(K8sCluster, "_batch_api", batch, raising=False)
    monkeypatch.setattr(K8sCluster, "_ApiException", OSError, raising=False)
    monkeypatch.setattr(K8sCluster, "_namespace", lambda: "default")
    monkeypatch.setenv("HOSTNAME", "localhost")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    address = K8sCluster.get_coordinator_address(None, "1234")
    assert address == f"{name}-train-0-0.{name}:1234"
    assert (K8sCluster.get_process_count(), K8sCluster.get_process_id()) == (2, 1)
    assert used == {("", "pods", "list"), ("batch", "jobs", "get")}
    granted = {
        (group, resource, verb)
        for rule in account[1]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert used <= granted
