"""What happened and what is happening: runs, the engine, and the pages that show them."""
