"""What the built-in steps do, as plain functions; steps/steps.py registers them.

Each takes the step context first, reads and writes only what it is handed, and raises
`CheckFailed` with a sentence when it finds something wrong.
"""
