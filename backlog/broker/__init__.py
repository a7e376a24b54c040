"""Redis and Celery: the connection, the application, the messages and the claims."""
