"""What each command does, one file per verb: the only place that joins the rooms."""
