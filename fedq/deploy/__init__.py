"""Deployment on Flower's SuperLink and SuperNodes: keys, process lines, the app that they run, faults, checks.

`keys`, `layout` and `files` make what `fedq deploy init` writes; `lines` are the lines of Flower that everything comes
down to; `server` and `site` are the two halves of the Flower App, `grid` what stands between the round loop and
Flower's own Grid; `supervise` follows a run and starts it again; `doctor` says what is wrong.
"""
