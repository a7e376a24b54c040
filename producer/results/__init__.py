"""What is made of a run afterwards: exports, the audit log, verification, retraction."""
