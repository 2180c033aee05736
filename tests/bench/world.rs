//! What measurements share.

use std::{collections::HashSet, time::Duration};

use futures::{Stream, StreamExt as _};
use kube::{ResourceExt as _, runtime::watcher};

use crate::common::{
    cluster::{Cluster, Shape},
    controller::Controller,
    wait,
};

/// A control plane without a scheduler, as the goals mean it.
pub(crate) fn cluster() -> &'static Cluster {
    static SHARED: std::sync::OnceLock<Cluster> = std::sync::OnceLock::new();
    SHARED.get_or_init(|| Cluster::start(Shape { no_scheduler: true, node: false }))
}

/// Tries until there is a value, without sleeping long: the time until then is what is measured.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(limit: Duration, check: impl FnMut() -> F) -> T {
    let value = wait::poll(limit, Duration::from_millis(2), check).await;
    value.unwrap_or_else(|| panic!("it did not happen within {limit:?}"))
}

/// Counts, by a watch, the different objects for which `is` holds; ends at `count`. A watch costs the cluster less than
/// asking again and again, and what is measured has the machine to itself.
pub(crate) fn counted<K, S>(objects: S, count: usize, is: fn(&K) -> bool) -> tokio::task::JoinHandle<()>
where
    K: kube::Resource + Send + 'static,
    S: Stream<Item = Result<K, watcher::Error>> + Send + 'static,
{
    tokio::spawn(async move {
        let (mut seen, mut objects) = (HashSet::new(), std::pin::pin!(objects));
        while seen.len() < count {
            let object = objects.next().await.unwrap().unwrap();
            if is(&object) {
                seen.insert(object.name_any());
            }
        }
    })
}

/// GET; the body of a 200.
pub(crate) async fn get(url: &str) -> Option<String> {
    wait::get(url).await.filter(|(status, _)| *status == 200).map(|(_, body)| body)
}

/// Whether the controller's caches are filled.
pub(crate) async fn ready(controller: &Controller) -> bool {
    get(&format!("{}/readyz", controller.health)).await.is_some()
}

/// Waits until the controller leads.
pub(crate) async fn leading(controller: &Controller) {
    let url = format!("{}/metrics", controller.health);
    until(Duration::from_secs(30), || async { get(&url).await.filter(|t| t.contains("pilothouse_leader 1")) }).await;
}

/// That many agents, or as many as `BENCH_AGENTS` says, to see that a measurement works.
pub(crate) fn agents(usual: usize) -> usize {
    let most = std::env::var("BENCH_AGENTS").ok().and_then(|n| n.parse().ok());
    most.map_or(usual, |most: usize| most.clamp(1, usual))
}
