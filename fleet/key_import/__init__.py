"""`fleet keys import`: vendor keys from elsewhere into the fleet, each one tried before it counts."""
