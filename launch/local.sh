#!/usr/bin/env bash
# Train with several processes on this machine: one per GPU, or on the CPU to rehearse a larger run.
#
# `deconv-jax launch local` replaces the words between double underscores and runs the file. SIGINT and
# SIGTERM make all processes save the state and exit with code 75; the same command then resumes the run. The
# exit code is that of a process that failed, else 75 if the run was stopped, else 0.
processes=__PROCESSES__
train=(__TRAIN__)

# A free port; only this machine can connect to it.
port=$(__PYTHON__ -c '
import socket
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    print(probe.getsockname()[1])') || exit
export JAX_COORDINATOR_BIND_ADDRESS=127.0.0.1:$port

pids=()
trap 'kill -TERM "${pids[@]}" 2> /dev/null' INT TERM
for ((index = 0; index < processes; index++)); do
  # The process uses the GPU with its index. The variable has no effect on a CPU.
  JAX_LOCAL_DEVICE_IDS=$index "${train[@]}" --distributed "127.0.0.1:$port,$index,$processes" &
  pids+=($!)
done

worst=0
for pid in "${pids[@]}"; do
  # A trapped signal ends `wait` early.
  while kill -0 "$pid" 2> /dev/null; do wait "$pid"; done
  wait "$pid"
  code=$?
  if ((code != 0 && (worst == 0 || worst == 75))); then worst=$code; fi
done
exit "$worst"
