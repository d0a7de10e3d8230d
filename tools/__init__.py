"""What a person runs beside the stages: it reads results and starts runs, and no stage imports it."""
