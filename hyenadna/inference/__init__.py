"""What a trained model is used for: scores, embeddings, predictions, new sequences."""
