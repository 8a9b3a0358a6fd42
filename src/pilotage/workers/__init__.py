"""What runs beside the user's Python functions. Few imports: a worker starts quickly and leaves its process to the user."""
