"""How ``lightning bench`` measures: the clock and the memory, the loops that are compared, and what is said of them."""
