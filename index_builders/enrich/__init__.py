"""Making the texts that make entities understandable: board titles, engaged queries, captions.

parts.py: a folder of Parquet parts of one plan; log.py: the log as planned and its normalised rows; aggregate.py: the
top texts of every entity; images.py, captioner.py, captions.py: a caption of every image; join.py: texts beside the
entities. Knows nothing about towers but their normalisation of text, and nothing about indexes.
"""
