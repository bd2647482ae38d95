"""Count the examples that the splits of a data set share.

Examples are compared by the files and records that they come from. Copies of a file under another name
count as different examples.
"""

import collections
import itertools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

FileRecords = tuple[str, range]
"""A file and the positions of records in it; range(1) for a file that is one example."""


def image_file_records(paths: Iterable[Path]) -> tuple[FileRecords, ...]:
    """Return the `FileRecords` of image files. Links are resolved."""
    return tuple((os.path.realpath(path), range(1)) for path in paths)


def overlaps(splits: Mapping[str, Iterable[FileRecords]]) -> dict[str, int]:
    """Count the files or records that each split shares with each earlier split.

    Args:
      splits: Files and records of each split, by its name. The order of the names decides which is earlier.

    Returns:
      The counts by "LATER in EARLIER", such as {"test in train": 400}. Disjoint pairs are left out.
    """
    places: dict[str, dict[str, set[int]]] = {}
    for name, files in splits.items():
        places[name] = collections.defaultdict(set)
        for file, records in files:
            places[name][file].update(records)
    counts = {
        f"{later} in {earlier}": sum(
            len(found & places[earlier][file])
            for file, found in places[later].items()
            if file in places[earlier]
        )
        for earlier, later in itertools.combinations(splits, 2)
    }
    return {pair: count for pair, count in counts.items() if count}
