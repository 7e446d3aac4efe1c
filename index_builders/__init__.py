"""Jobs that turn entities into embeddings and embeddings into published generations. Imports nothing by itself."""
