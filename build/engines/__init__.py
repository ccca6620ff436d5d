"""What generates tokens in production, one package per engine."""
