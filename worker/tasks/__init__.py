"""The three Celery tasks and what they have in common."""
