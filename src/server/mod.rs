//! What the controller serves: health, metrics, the sidecars' connection.

pub mod health;
pub mod metrics;
pub mod voice;
