"""Towers: text of queries and entities into unit vectors of one space. Knows nothing about stores, indexes or servers.

Import from the modules (`retrieval.towers.query`, `.entity`, `.checkpoint`, …): each needs torch, this file does not.
"""
