"""The model: multiplexer + encoder + demultiplexer + head, composed from one config."""
