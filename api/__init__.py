"""What each command does, one module per command: the only place that joins the rooms."""
