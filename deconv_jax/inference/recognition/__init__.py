"""Classes, segmentations and boxes predicted for image files: `deconv-jax predict`.

`cli.predict` plans jobs with `image_files`, loads a `Predictor` from a run (`load`) and calls
`coco.predict_file` on each file. A `Predictor` resizes or pads the image to an input of the network,
calls the task's compiled `predict`, and maps the output back to the image. `predictions` are the
results: they draw themselves on the image and convert themselves to COCO annotations, which
`coco.coco_dict` collects.
"""
