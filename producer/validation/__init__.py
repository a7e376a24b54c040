"""Are the scores right here: a run's scores against the site's own labels, and operating points from them."""
