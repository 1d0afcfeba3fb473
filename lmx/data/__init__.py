"""Opens files and hub datasets and makes batches of fixed shapes, in NumPy alone.

Nothing here knows a device, a mesh or a model: a batch is a dictionary of arrays. Turning text into ids is
`lmx.text`'s, placing arrays on devices is `lmx.sharding`'s, and scores are `lmx.scoring`'s.
"""
