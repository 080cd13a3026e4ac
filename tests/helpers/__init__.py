"""What several tests need: made-up networks, graphs, models, deployments, and the oracle by brute force."""
