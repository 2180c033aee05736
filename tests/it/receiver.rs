//! Webhooks in, on a real control plane under the chart's own rights, with a real Git server.

mod chart;
mod deliveries;
mod flow;
mod forges;
mod world;

pub(crate) use world::TOKEN;

/// Headers and body with which a forge tells of a push to `main`, signed with [`TOKEN`].
pub(crate) fn delivery(commit: &str) -> (Vec<(&'static str, String)>, String) {
    let signed = forges::push(pilothouse::api::Forge::GitHub, "main", commit).signed(TOKEN);
    (signed.headers, signed.body)
}
