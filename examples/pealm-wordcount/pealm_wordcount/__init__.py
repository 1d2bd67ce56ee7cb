"""Words, counted and judged, for pealm."""
