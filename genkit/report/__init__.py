"""Tables, pages, charts and model cards made from scores. Never imports torch."""
