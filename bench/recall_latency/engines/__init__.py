"""Adapters of index libraries and vector databases behind one small interface, each imported when it is used."""
