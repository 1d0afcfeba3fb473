"""The parts Transformers are built from. Import each from the module that defines it."""
