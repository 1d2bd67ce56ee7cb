"""The command's module name, so that `python -m pealm` and `torchrun ... -m pealm` work."""
