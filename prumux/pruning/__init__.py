"""Pruning: masks over the structure, gates that learn them, distillation, and the removal of what is masked."""
