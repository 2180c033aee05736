//! Custom resource types, names and condition reasons (pure).
