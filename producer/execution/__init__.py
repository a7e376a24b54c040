"""A run is worked on: until it is complete or stopped, or day after day where its source is followed."""
