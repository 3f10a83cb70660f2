"""The only room that knows the WebUI."""
