//! Order, diff, inventory and prune decisions (pure).
