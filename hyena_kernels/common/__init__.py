"""What the ops and several backends share."""
