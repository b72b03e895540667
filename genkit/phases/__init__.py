"""What the loop needs of phases: their contract, rates, progress, and what to say of failures."""
