//! A Task is the only proof that it ran until its `CronTask` has written that down.

use std::time::Duration;

use jiff::Timestamp;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use pilothouse::api::PilothouseConfig;
use serde_json::json;

use super::Place;
use crate::common::{
    between::Stop,
    cluster::{Cluster, Shape},
    wait::eventually,
};

/// The controller dies after it has made a Task, which ends, and whose cleanup is due before its `CronTask` can be written.
/// Settings are the cluster's, so this one has a cluster of its own.
#[tokio::test]
async fn cleanup_takes_no_task_away_that_would_be_made_again() {
    let cluster = Cluster::start(Shape { no_scheduler: true, ..Shape::default() });
    let mut place = Place::on(&cluster, "cron-proof").await;
    let configs: Api<PilothouseConfig> = Api::all(place.client.clone());
    let config = json!({
        "apiVersion": "pilothouse.dev/v1alpha1", "kind": "PilothouseConfig", "metadata": {"name": "cluster"},
        "spec": {"cleanup": {"ttlSecondsAfterFinished": 1}},
    });
    configs.patch("cluster", &PatchParams::apply("test"), &Patch::Apply(config)).await.unwrap();
    let between = place.release.between().await;
    let audit = cluster.audit().later();

    for (name, spec, trigger) in [("timed", json!({}), None), ("asked", json!({"suspend": true}), Some("true"))] {
        place.seen_hours_ago(name, spec).await;
        let patch = json!({"metadata": {"annotations": {"pilothouse.dev/trigger": trigger}}});
        place.crontasks.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        between.stop_at(Stop { of: "/tasks", after: 0, carried_out: true });
        let mut controller = place.start();
        eventually("it makes the Task, and hears nothing of it", 60, || async { between.stopped() }).await;
        let made = || async { Some(place.names().await).filter(|names| names.len() == 1) };
        let names = eventually("the Task is there", 60, made).await;
        controller.kill();
        between.go_on();
        place.phase(&names[0], "Completed").await;

        between.refuse(Some("/crontasks/"));
        let mut next = place.start();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(place.names().await, names, "{name}: it is kept");
        between.refuse(None);
        eventually("it is cleaned up", 60, || async { place.names().await.is_empty().then_some(()) }).await;
        place.status("it is written down", name, |cron| (super::total(cron)? == 8).then_some(())).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(place.names().await.is_empty(), "{name}");
        next.kill();
    }
    let made =
        audit.writes(&place.release.user()).into_iter().filter(|r| r.verb == "create" && r.resource() == "tasks");
    assert_eq!(made.filter(|r| r.code() == 201).count(), 2, "one each");
}

/// A new leader's cache is behind: it does not show that the time was written down, but that its Task is gone.
#[tokio::test]
async fn a_cache_that_is_behind_makes_no_task_again() {
    let mut place = Place::new("cron-behind").await;
    let between = place.release.between().await;
    place.seen_hours_ago("c", json!({})).await;
    let watch = ("/crontasks", "watch=");
    between.hold(&[watch, ("/tasks", "")]);
    let mut controller = place.start();
    eventually("it has listed the CronTask", 60, || async { between.all_wait().then_some(()) }).await;
    let slot = Timestamp::from_second(place.last_slot()).unwrap();
    let status = json!({"status": {"lastScheduleTime": slot, "totalExecutions": 8}});
    place.crontasks.patch_status("c", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    between.hold(&[watch]);
    place.status("it has decided", "c", |cron| cron.status.clone()?.next_schedule_time).await;
    assert_eq!(place.names().await, Vec::<String>::new(), "that time is dealt with");
    assert_eq!(super::total(&place.crontasks.get("c").await.unwrap()), Some(8));
    controller.kill();
}
