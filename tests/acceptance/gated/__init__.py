"""An app of steps that wait for files, so that tests decide when each of them ends.

A run whose context names a folder (`gates`) waits there for a file of each step's name.
"""
