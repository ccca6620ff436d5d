"""Tasks that come with nemo-deploy, in the form in which lm-eval reads its own."""
