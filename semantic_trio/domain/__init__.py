"""The rules of the product: synchronous, without clock, logging or I/O."""
