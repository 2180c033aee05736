//! Webhooks in, on a real control plane under the chart's own rights, with a real Git server.

mod chart;
mod deliveries;
mod flow;
mod forges;
mod world;
