"""Objects stored beside a report: a secondary capture and a PDF."""
