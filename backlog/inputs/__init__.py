"""What a run reads from disk: zip archives and folders."""
