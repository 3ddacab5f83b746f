"""What people look at: tables, sizes, progress."""
