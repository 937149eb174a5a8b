"""Steering a live stream from outside: one schema for socket, OSC, keyboard, presets and flags.

schema.py    what can be set, and the check of every value. Read this first.
hub.py       carries a change to the frame where it takes effect, and acknowledges it
server.py    HTTP, WebSocket, /metrics and the preview page;  access.py: who may
osc.py       the same over OSC;  presets.py: the same in TOML files
taps.py      what hangs on the output: recording, snapshots, preview
"""
