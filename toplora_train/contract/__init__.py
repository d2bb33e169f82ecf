"""What every adapter must do, as checks on tiny models: those of this package and yours."""
