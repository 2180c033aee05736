//! Wiring: watches, leader election, one file a kind.
