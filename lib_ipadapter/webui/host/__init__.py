"""What differs between hosts."""
