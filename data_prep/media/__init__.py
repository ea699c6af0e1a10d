"""Reading media that nobody vouches for."""
