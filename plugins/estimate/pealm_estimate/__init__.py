"""What a run needs, before it is started: memory, speed, time and cost."""
