"""Folders of token shards as a dataset."""
