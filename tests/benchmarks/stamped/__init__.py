"""An app of steps that say when they ran, for the latencies."""
