"""An app of steps that leave traces: each attempt writes its begin and its end to a ledger."""
