"""What watches training from outside and keeps a long run alive."""
