"""The phases: retrieval warm-up, MLM pretraining, finetuning, pruning, finetuning after pruning."""
