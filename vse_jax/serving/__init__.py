"""An HTTP server with a page for searching a gallery: `--mode=serve`."""
