"""How the weights of a bundle get to a cluster: code that runs, no manifests."""
