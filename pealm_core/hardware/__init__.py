"""Devices, processes and kernels. Every call to a private torch API is in this room."""
