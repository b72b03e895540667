"""Studies: trainings described in a TOML file, compared, counted and explained on one page. Never
imports torch."""
