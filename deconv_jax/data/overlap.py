"""Which examples splits of a data set share, by the files and records that they are made of.

Copies of a file under another name count as different examples.
"""

import collections
import itertools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

Part = tuple[str, range]
"""A file, and the places of records in it: range(1) for a file that is an example itself."""


def parts_of_files(paths: Iterable[Path]) -> tuple[Part, ...]:
    """Return each file as a part; links are followed."""
    return tuple((os.path.realpath(path), range(1)) for path in paths)


def overlaps(splits: Mapping[str, Iterable[Part]]) -> dict[str, int]:
    """Count the files or records that each split shares with each of those before it.

    Args:
      splits: the parts of each split, by its name.

    Returns:
      The number by "LATER in EARLIER", such as {"test in train": 400}; without pairs that share none.
    """
    places: dict[str, dict[str, set[int]]] = {}
    for name, parts in splits.items():
        places[name] = collections.defaultdict(set)
        for file, of_file in parts:
            places[name][file].update(of_file)
    counts = {
        f"{later} in {earlier}": sum(
            len(found & places[earlier][file])
            for file, found in places[later].items()
            if file in places[earlier]
        )
        for earlier, later in itertools.combinations(splits, 2)
    }
    return {pair: count for pair, count in counts.items() if count}
