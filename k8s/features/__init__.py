"""What a variant of the tree is composed of besides its plain objects: one file for each feature.

A feature (`manifests.Feature`) adds objects, or changes those of features before it.
"""
