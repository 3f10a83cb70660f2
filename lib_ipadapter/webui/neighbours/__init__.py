"""Other extensions that share a job with this one."""
