"""One loop for every task: protocol, state, devices, checkpoints, logs."""
