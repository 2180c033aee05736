//! From an Agent to its objects, and the rollout gate (pure).
