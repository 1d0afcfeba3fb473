"""Where arrays live: meshes, the rules from model axes to mesh axes, placement, and layout inside a step.

Only this folder builds a mesh or a PartitionSpec; everybody else names axes in the model's alphabet (`docs/axes.md`).
"""
