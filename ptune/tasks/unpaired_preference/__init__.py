"""Training on answers that are judged one by one."""
