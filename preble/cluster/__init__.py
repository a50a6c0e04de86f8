"""What users hold: `PrebleCluster`, and how prompts go in and text comes out.

The shell around the dispatcher: the clock, the event loop and the decision log's file enter here. Only the public
names of `preble` and the command line import it.
"""
