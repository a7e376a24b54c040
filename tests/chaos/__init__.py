"""The chaos harness: break everything on purpose, then count what was lost, doubled or wrongly given up.

``python -m tests.chaos [EXPERIMENT ...]``. Redis, Orthanc, Celery, the command line and the workers' code are
the real ones. Only the model is replaced, by one that reads the picture's number and makes its scores of it,
so that a report with another image's scores shows too.
"""
