"""The workers as the producer meets them: started on this machine, or asked what they are."""
