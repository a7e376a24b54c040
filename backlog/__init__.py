"""What the producer and the workers agree on: settings, messages, claims, the PACS and the archive."""
