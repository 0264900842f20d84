"""An app of steps with effects that count: each is a line in a file, durable before it goes on."""
