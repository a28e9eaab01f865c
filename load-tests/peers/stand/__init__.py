"""What the peers are checked and measured with: a local stack, events, and what their rows are."""
