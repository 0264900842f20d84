"""An app whose steps ask for a process of their own."""
