"""A whole task, as small as one can be: is a text short or long? `tests/tasks/test_toy_task.py` puts it into ptune."""
