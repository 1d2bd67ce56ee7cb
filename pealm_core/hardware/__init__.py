"""Devices, processes, and what makes a model faster on them. Private torch: here and in `pealm_cpu` only."""
