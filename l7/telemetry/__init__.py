"""What the proxy tells about itself: response flags, access log, metrics."""
