"""The authors' checkpoint formats -> our normal folder."""
