"""Learned image compression: `deconv-jax compress` and `deconv-jax decompress`.

`cli.compress` loads a `Codec` from a run (`load`) and calls `compress` or `decompress` on each file.
`codec` defines the file format and runs the networks tile by tile. `coding_tables` derives integer
tables from the trained entropy model and stores them beside the weights. `entropy_coding` codes
integers with these tables by range coding, and `fixed_point` evaluates the hyperprior's decoder in
exact integer arithmetic, so that every machine reads the same integers from a file.
"""
