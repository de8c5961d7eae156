"""Tasks, a folder each: what is trained, examined and answered. `ptune.config.tasks.TASKS` says where each part lies."""
