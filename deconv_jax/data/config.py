"""The data of an experiment: a source, its splits, and how examples are loaded."""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

from deconv_jax.data.annotated_folders import AnnotatedSource
from deconv_jax.data.file_splits import random_splits
from deconv_jax.data.folders import FolderSource
from deconv_jax.data.paired_folders import PairedSource
from deconv_jax.data.source_configs import SourceConfig
from deconv_jax.data.sources import Source, in_memory
from deconv_jax.errors import InputError, at_least, escape_unprintable
from deconv_jax.io import kind_of

Split = Literal["train", "validation", "test"]
_SPLITS: tuple[Split, ...] = get_args(Split)


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set with its splits, and how examples are loaded.

    Attributes:
      source: The data set; see `source_configs`.
      data_dir: Folder of TFDS data sets, or the folder that a relative path is relative to; see
        `SourceConfig.open`.
      train_split, validation_split, test_split: Split expressions; see `SourceConfig.open`, and
        `with_splits` for folders without subfolders train, validation and test. The validation
        split is evaluated during training and selects the best checkpoint; the test split is
        evaluated once, at the end.
      cache: "none" decodes examples on demand. "memory" decodes each split once, into host memory.
        "device" also keeps the training split on every device, so that a step transfers only indices.
      workers: Number of processes that load examples; 0 loads them in threads of this process.
      prefetch: Number of batches that are transferred to the device ahead of the step, at least 0.
    """

    source: SourceConfig
    data_dir: str | None = None
    train_split: str = "train"
    validation_split: str = "validation"
    test_split: str = "test"
    cache: Literal["none", "memory", "device"] = "none"
    workers: int = 0
    prefetch: int = 2

    def __post_init__(self) -> None:
        at_least("data.workers", self.workers, 0)
        at_least("data.prefetch", self.prefetch, 0)

    @staticmethod
    def reject_old_format(settings: Any) -> None:
        """Raise InputError if settings have a key "name", by which an older version named a data set.

        Other keys are not checked.
        """
        if isinstance(settings, Mapping) and "name" in settings:
            raise InputError(
                f"config.data.name={settings['name']!r} is the format of an older version; write a "
                "config.data.source such as dict(name='folder', path=..., tile=..., color=...) or "
                "dict(name='tfds', dataset='mnist'), and train the run again"
            )

    def with_splits(self) -> "Data":
        """Return the data with random splits if it is a folder for which no splits are defined.

        The splits hold about 80, 10 and 10 percent of the files, the same in every run. The data is returned
        unchanged if one of the three splits is not the default, if the source is not a folder of the user, or
        if the folder has a subfolder train, validation or test.

        Raises:
          InputError: The folder does not exist, or has fewer than three files.
        """
        splits = [f"{split}_split" for split in _SPLITS]
        if any(getattr(self, split) != getattr(Data, split) for split in splits):
            return self
        with self._naming_keys("source"):
            files = self.source.find_files("all", self.data_dir)
            if files is None or any(kind_of(files.root / split) == "folder" for split in _SPLITS):
                return self
            chosen = random_splits(files)
        return dataclasses.replace(
            self,
            train_split=chosen["train"],
            validation_split=chosen["validation"],
            test_split=chosen["test"],
        )

    def open(self, split: Split) -> Source:
        """Open a split; skipped image files are listed on stderr.

        Only training examples can be tiles; other splits have whole images. Unless `cache` is "none", all examples
        are decoded into memory.

        Raises:
          InputError: The data set or the split does not exist or cannot be read, or the data set is not
            prepared. The message starts with the settings.
        """
        key = f"{split}_split"
        with self._naming_keys("source", key):
            config = self.source if split == "train" else self.source.untiled()
            source = config.open(getattr(self, key), self.data_dir)
        if isinstance(source, FolderSource | PairedSource | AnnotatedSource) and source.skipped:
            print(
                f"warning: image files left out of the {split} split: {len(source.skipped)}",
                *map(escape_unprintable, source.skipped),
                sep="\n  ",
                file=sys.stderr,
            )
        return source if self.cache == "none" else in_memory(source)

    @contextlib.contextmanager
    def _naming_keys(self, *keys: str) -> Iterator[None]:
        """Prefix errors with the settings that they are about."""
        try:
            yield
        except InputError as error:
            named = ", ".join(f"config.data.{key}={str(getattr(self, key))!r}" for key in keys)
            raise InputError(f"{named}: {error}") from error
