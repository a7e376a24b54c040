"""The four Celery tasks and what they have in common."""
