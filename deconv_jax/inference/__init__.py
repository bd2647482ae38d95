"""Trained models and classical methods applied to image files, one subpackage per application.

    restoration     denoise, deblur or enlarge images
    compression     compress images with a learned codec, and decompress them
    generation      sample images from GANs and VAEs
    recognition     classify, segment and detect
    interpretation  visualize features and attribute predictions to pixels

Modules at this level are shared: `image_files` finds inputs and plans outputs, `tiling` and
`self_ensemble` run a network on large images, `memory` and `progress` report on the work.
"""
