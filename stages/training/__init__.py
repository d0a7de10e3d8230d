"""How weights change: the loop, objectives, optimizer, schedule, resumable state, and the runtime that they run on."""
