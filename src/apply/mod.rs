//! Server-side apply, prune and health.
