"""Costs of networks and training steps: FLOPs, memory, and bounds on time.

`report.cost_of` traces the training step of an experiment and returns its `Cost`:

    multiply_adds   exact counts from a jaxpr
    networks        the networks of a step, layer by layer
    accelerators    peak rates, and the bounds that follow from them
    measure         times on this device
    report          all of this for an experiment
    text            the same as text, CSV or a dict
"""
