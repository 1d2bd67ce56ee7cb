"""The plugin host: discover installed plugins, quarantine broken ones, resolve names."""
