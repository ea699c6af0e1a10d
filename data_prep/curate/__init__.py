"""From clips to the spans worth training on, with a reason for every decision."""
