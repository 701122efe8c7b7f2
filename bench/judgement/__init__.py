"""What a record says to do: what got worse, and what to ship."""
