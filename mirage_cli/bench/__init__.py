"""What mirage bench measures: stages, live latency, the ladder, the race, the floor."""
