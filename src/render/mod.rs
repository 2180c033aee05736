//! Renders a file tree to objects (pure).
