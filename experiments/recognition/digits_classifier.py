"""Small convolutional classifier of the embedded handwritten digits, no download."""

import ml_collections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Takes no arguments."""
    del arg
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="recognition",
        model=dict(
            name="classifier",
            num_classes=10,
            features=(16, 32, 64),
            convs_per_block=1,
            embedding_dim=64,
        ),
        translate=2,
    )
    config.data = dict(name="digits", cache="device")
    config.optimizer = dict(
        name="adamw",
        learning_rate=4e-3,
        schedule="cosine",
        warmup_steps=50,
        weight_decay=1e-4,
        clip_norm=1.0,
    )
    config.training = dict(
        num_steps=600,
        batch_size=64,
        eval_every=200,
        save_every=200,
        log_every=50,
        steps_per_call=10,
    )
    config.seed = 0
    return config
