"""Ways of learning from text that has been coded."""
