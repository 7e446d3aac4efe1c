"""Trainings that one command repeats: which sources, which settings, which queries are held out.

demo.toml real.toml       settings of the training, as `retrieval.training.config` reads them
held_out/SOURCE.txt       queries and images (by `held_out_key`) that are never trained on
named.py                  the recipes by name: their sources and how each is prepared
claim.py                  whose work a folder holds
encoded.py                what the untrained encoder makes of every entity, once
run.py                    the stages, one after another, each done once
"""
