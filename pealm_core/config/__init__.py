"""Settings: dataclasses, TOML files and command lines, layered into a `Job`."""
