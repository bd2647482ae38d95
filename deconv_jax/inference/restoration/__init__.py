"""Restoration of images and videos by trained networks and classical methods: `deconv-jax restore`.

`cli.restore` plans jobs with `image_files`, builds a restorer and calls `restore_files.restore_files`.
A restorer is a function of pixels: `LearnedRestorer` (`load` reads its network from a run; it calls
`tiling.restore_tiled` with the compiled network) or `ClassicalRestorer` (a method of
`deconv_jax.classical` for the kernel that `blur_kernel` reads). `pnp_denoiser` makes trained networks
the denoiser of plug-and-play restoration. `wrapping` extends periodic images. `measurement` compares
results with references.

`video` restores the frames of a video one by one: `video_source` reads them, `video_color` converts
them, and `video_parts` encodes them in parts, which are kept until the video is complete.

`evaluation` is independent of files: it measures a restorer on a test set under a published protocol.
"""
