"""SGLang: planned, and never built for."""
