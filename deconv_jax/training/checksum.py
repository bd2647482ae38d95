"""The checksum of a checkpoint."""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from deconv_jax.training.parallel import gather_to_host
from deconv_jax.training.state import TrainState


def state_checksum(state: TrainState, facts: Mapping[str, Any] | None) -> int:
    """Return the CRC-32 of the names, shapes, dtypes and bytes of all arrays, and of metadata.

    Args:
      state: Arrays, which are copied to the host. All processes must call this.
      facts: JSON-serializable metadata that the checksum also covers, or None.
    """
    value = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        array = gather_to_host(leaf) if isinstance(leaf, jax.Array) else np.asarray(leaf)
        name = f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}"
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data  # not a copy
        value = zlib.crc32(content, zlib.crc32(name.encode(), value))
    if facts is not None:
        # A round trip through JSON turns tuples into lists and keys into strings, as reading does.
        read = json.loads(json.dumps(facts))
        value = zlib.crc32(json.dumps(read, sort_keys=True).encode(), value)
    return value
