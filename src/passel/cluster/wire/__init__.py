"""What the sides say to each other, as frozen records; none of them knows the other's code."""
