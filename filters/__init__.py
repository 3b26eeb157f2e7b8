"""Which documents stay: text signals, the rules over them, and the steps that rewrite text."""
