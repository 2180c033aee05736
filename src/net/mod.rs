//! Serving strangers: anybody may connect, so each gets little, and nobody's share can be taken by others.

pub mod front;
pub mod lobby;
