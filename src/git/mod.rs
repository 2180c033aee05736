//! Git remotes. The only room that names gix.
