"""Images sampled from trained GANs and VAEs: `deconv-jax generate`.

`cli.generate` loads the decoder of a run (`load`), draws latents with `sampling.latents_from_seed`,
arranges them as samples, a walk (`latent_walk`) or traversals (`latent_traversal`), and calls
`sampling.generate`, which decodes them in batches on all devices. `texture` draws textures of any size,
tile by tile. `pictures` writes the images to a
grid, an animation or single files.
"""
