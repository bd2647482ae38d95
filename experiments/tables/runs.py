"""Runs of the experiment configs that no other table trains.

  deconv-jax tables runs

The data is embedded in the package, except Fashion-MNIST. About half an hour on 2 CPU cores.
"""

from _common import Records, run_part, training_summary

from deconv_jax.tables import linked, markdown

VERSION = 1
CONFIGS = {
    "digits_autoencoder": "autoencoding/digits.py",
    "digits_classifier": "recognition/digits_classifier.py",
    "fashion_classifier": "recognition/fashion_classifier.py",
    "digits_gan": "synthesis/digits.py",
    "denoise_photos": "restoration/denoise_photos.py",
}
PARTS = {name: run_part(config) for name, config in CONFIGS.items()}

_SHOWN = (
    "frechet_distance",
    "fid",
    "recall",
    "coverage",
    "real_frechet_distance",
    "real_fid",
    "real_coverage",
)
"""Metrics of generators that a row has room for."""


def render(records: Records) -> str:
    """Return a row for each run: test metrics beside those of a baseline without a network."""
    rows = [
        [
            linked(f"`{CONFIGS[name]}`", record),
            _metrics(record["metrics"]),
            _metrics(record["baseline"]),
            f"{record['counts']['test']:,}",
            f"{record['training']['parameters']:,}",
            training_summary(record["training"]),
            f"{record['device']['count']} x {record['device']['kind']}",
            (record["commit"] or "-")[:7],
        ]
        for name, record in records.items()
    ]
    header = "config | test | baseline | images | parameters | training | device | commit"
    return markdown(header, rows)


def _metrics(values: dict[str, float]) -> str:
    if any(name in values for name in _SHOWN):
        values = {name: value for name, value in values.items() if name in _SHOWN}
    return ", ".join(
        f"{name} {value:.2f} dB" if name.endswith("psnr") else f"{name} {value:.4f}"
        for name, value in values.items()
    )
