"""What the proxy does right now, for whoever watches: a stream of frames, and a page that shows them."""
