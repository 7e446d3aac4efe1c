"""Candidate generation: text or vector in, one merged top-k out, with what it is worth.

The core (`encode`, `rows`, `shards`, `effort`, `fanout`, `engine`, `load`) knows no gRPC; the border (`wire`, `status`,
`service`, `server`) knows no towers and no indexes. Importing this package opens nothing and sets no thread count.
"""
