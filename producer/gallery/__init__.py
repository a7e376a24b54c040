"""Selected images of a run on one page, for people to look at and judge."""
