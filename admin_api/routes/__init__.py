"""The endpoints: each turns HTTP into one call of a service function, and its outcome into an answer."""
