#!/usr/bin/env bash
# Create a Cloud TPU VM, train on all of its workers, and repeat after a preemption.
#
# `deconv-jax launch tpu-vm` replaces the words between double underscores and runs the file. The project is
# that of `gcloud config`. The image is that of launch/Dockerfile with PLATFORM=tpu, in the Artifact Registry.
# Every worker mounts the bucket at /shared, for the workdir and the data; the bucket should have a
# hierarchical namespace, so that a folder is renamed atomically.
#
# Exit code: 0 when training has finished, 2 for invalid input, 1 after the last attempt.
name=__NAME__
zone=__ZONE__
device=__DEVICE__
version=__VERSION__
image=__IMAGE__
bucket=__BUCKET__
attempts=20
delay=60  # seconds between two attempts

tpu() {
  local action=$1
  shift
  gcloud compute tpus tpu-vm "$action" "$name" --zone="$zone" --quiet "$@"
}

create() {
  local state
  state=$(tpu describe --format='value(state)' 2> /dev/null)
  if [ "$state" = READY ]; then return; fi
  if [ -n "$state" ]; then tpu delete; fi  # preempted, stopped or broken
  tpu create --accelerator-type="$device" --version="$version"
}

# The commands of one worker.
mount="mountpoint -q /shared || {
  command -v gcsfuse > /dev/null || {
    echo \"deb [signed-by=/usr/share/keyrings/cloud.google.asc]\" \
      \"https://packages.cloud.google.com/apt gcsfuse-\$(lsb_release -cs) main\" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list > /dev/null &&
    curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg |
      sudo tee /usr/share/keyrings/cloud.google.asc > /dev/null &&
    sudo apt-get update -q && sudo apt-get install -q -y gcsfuse
  } && sudo mkdir -p /shared && sudo gcsfuse -o allow_other --rename-dir-limit=100000 $bucket /shared
}"
# A container outlives a lost connection: let it save and end, before it is started again.
stop="{ sudo docker stop -t 300 $name; sudo docker rm --force $name; } > /dev/null 2>&1 || true"
pull="sudo gcloud auth configure-docker --quiet ${image%%/*} && sudo docker pull --quiet $image"
# A TPU needs the devices of the host and a privileged container.
run="sudo docker run --name=$name --rm --privileged --network=host --user=0 --volume=/shared:/shared $image "
run+=__COMMAND__
run+='; echo "deconv-jax exited with $?"'

log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT  # gcloud handles Ctrl-C itself, and would be called again
for ((attempt = 1; attempt <= attempts; attempt++)); do
  if ((attempt > 1)); then sleep "$delay"; fi
  echo "attempt $attempt of $attempts"
  create || continue
  tpu ssh --worker=all --command="$stop; $mount && $pull" || continue
  # gcloud does not return the exit code of the command, so each worker prints it.
  tpu ssh --worker=all --command="$run" 2>&1 | tee "$log"
  codes=$(sed -n 's/.*deconv-jax exited with \([0-9]*\).*/\1/p' "$log" | sort -nu)
  case $codes in
    0)
      echo "finished; delete the VM: gcloud compute tpus tpu-vm delete $name --zone=$zone"
      exit 0
      ;;
    2) exit 2 ;;
  esac
done
exit 1
