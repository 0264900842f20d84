"""An app of steps that write what nobody expects, and tell their secrets in every way."""
