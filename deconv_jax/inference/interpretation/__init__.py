"""Feature visualization and attribution for trained networks: `deconv-jax visualize`.

`cli.visualize` loads an `InterpretableModel` from a run (`load`) and calls one of the functions of
`figures`, which compute results in batches and draw them as one picture. `activations` finds the
layers of a network and returns their feature maps. `attribution` differentiates a unit or class
with respect to the pixels, under the backward rules of `relu_rules`, or occludes them.
`feature_visualization` finds the patches that activate a feature map most, cropped to the windows
of `receptive_windows`, and generates images by activation maximization.
"""
