//! What is served: health, metrics, the sidecars' connection; webhooks, by a process of their own.

pub mod health;
pub mod metrics;
pub mod receiver;
pub mod voice;
