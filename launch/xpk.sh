#!/usr/bin/env bash
# Train on TPU slices, or GPU nodes, of a GKE cluster created by xpk.
#
# `deconv-jax launch xpk` replaces the words between double underscores and runs the file. Project and zone
# are those of `gcloud config`. The image is that of launch/Dockerfile with PLATFORM=tpu. The storage, made by
# `xpk storage attach`, holds the workdir and the data. xpk restarts the workload on code 75 (stopped and
# saved) and on codes above 126, but not on 2 (invalid input).
exec xpk workload create \
  --cluster=__CLUSTER__ \
  --workload=__NAME__ \
  --device-type=__DEVICE__ \
  --num-slices=__SLICES__ \
  --docker-image=__IMAGE__ \
  --storage=__STORAGE__ \
  --max-restarts=20 \
  --restart-on-exit-codes=75 \
  --termination-grace-period-seconds=300 \
  --command=__COMMAND__
