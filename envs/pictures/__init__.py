"""Pictures made by simulation, for pre-training: views of procedural objects, kept in a store."""
