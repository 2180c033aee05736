//! The controller dies at each write of a Sync, before or after the API server has carried it out: what was applied is
//! in an inventory, what is not in the files goes, what stays is never made anew, and nothing of others is touched.

use std::collections::{BTreeMap, BTreeSet};

use kube::api::ListParams;

use super::*;
use crate::common::between::Stop;

/// Objects by name: the value of the key, the Sync that has it, and the uid.
type Seen = BTreeMap<String, (String, Option<String>, String)>;

/// What the commit with this number has, beside [`Scene::lent`]: each one makes, changes and drops an object, and two
/// move, of which one is dropped with the next commit.
fn files(n: u32) -> Vec<(String, String)> {
    let (side, text) = (["a", "b"][n as usize % 2], format!("v{n}"));
    let mut files = vec![
        ("a/keep.yaml".into(), map("keep-a", "x")),
        ("b/keep.yaml".into(), map("keep-b", "x")),
        ("a/same.yaml".into(), map("same", &text)),
        (format!("{side}/moved.yaml"), map("moved", &text)),
    ];
    for (place, name, value) in [("a", "made", n), ("a", "lent", n), ("a", "passed", n), ("b", "passed", n - 1)] {
        files.push((format!("{place}/{name}.yaml"), map(&format!("{name}-{value}"), "x")));
    }
    files
}

struct Scene {
    w: World,
    between: Between,
    n: u32,
    /// Of somebody else, by name: their uids.
    foreign: BTreeMap<String, String>,
    /// The uids of what is there in each commit.
    lasting: BTreeMap<String, String>,
}

impl Scene {
    async fn new(prefix: &str) -> Self {
        let (w, between) = World::behind(prefix, &["--leader-elect", "false"]).await;
        let mut scene = Self { w, between, n: 0, foreign: BTreeMap::new(), lasting: BTreeMap::new() };
        scene.push().await;
        for name in ["a", "b"] {
            // Nobody looks for what others change: a push is all that happens.
            scene.w.sync(name, json!({"path": name, "interval": "10h"})).await;
        }
        scene.settle().await;
        scene
    }

    async fn push(&mut self) {
        self.n += 1;
        let files = files(self.n);
        let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.clone())).collect();
        self.w.commit(self.n, &files).await;
    }

    async fn applied(&self) -> bool {
        let revision = format!("main@sha1:{:040x}", self.n);
        let mut all = true;
        for name in ["a", "b"] {
            let status = self.w.syncs().get(name).await.unwrap().status.unwrap_or_default();
            all &= status.last_applied_revision.as_ref() == Some(&revision) && reason(&status) == ("True", "Applied");
        }
        all
    }

    async fn seen(&self) -> Seen {
        let all = self.w.maps().list(&ListParams::default()).await.unwrap().items;
        let one = |map: ConfigMap| {
            let value = map.data.as_ref().and_then(|d| d.get("key")).cloned().unwrap_or_default();
            (map.name_any(), (value, map.labels().get("pilothouse.dev/sync-name").cloned(), map.uid().unwrap()))
        };
        all.into_iter().map(one).collect()
    }

    /// Which Sync lists what.
    async fn listed(&self) -> BTreeSet<(String, String)> {
        let mut all = BTreeSet::new();
        for sync in self.w.syncs().list(&ListParams::default()).await.unwrap().items {
            let name = |id: &String| id.split('_').nth(1).unwrap().to_owned();
            let ids = ids(&sync.status.clone().unwrap_or_default());
            all.extend(ids.iter().map(|id| (sync.name_any(), name(id))));
        }
        all
    }

    /// Waits until the newest commit is applied, and looks at everything.
    async fn settle(&mut self) {
        eventually("all is applied", 60, || async { self.applied().await.then_some(()) }).await;
        let (seen, n) = (self.seen().await, self.n);
        let owned: BTreeSet<(String, String)> =
            seen.iter().filter_map(|(name, (_, sync, _))| Some((sync.clone()?, name.clone()))).collect();
        let named = |(path, text): &(String, String)| {
            let name = text.split("name: ").nth(1).unwrap().lines().next().unwrap();
            (path[..1].to_owned(), name.to_owned())
        };
        let wanted: BTreeSet<_> = files(n).iter().map(named).collect();
        assert_eq!(owned, wanted, "commit {n}: what the Syncs have applied is what is in the files");
        assert_eq!(self.listed().await, wanted, "commit {n}: and the inventories list it");
        for name in ["same", "moved"] {
            assert_eq!(seen[name].0, format!("v{n}"), "{name}");
        }
        for name in ["same", "moved", "keep-a", "keep-b"] {
            let uid = self.lasting.entry(name.into()).or_insert_with(|| seen[name].2.clone());
            assert_eq!(*uid, seen[name].2, "commit {n}: {name} was deleted and made anew");
        }
        for (name, uid) in &self.foreign {
            assert_eq!(seen.get(name).map(|s| &s.2), Some(uid), "commit {n}: {name} belongs to somebody else");
        }
        self.lend(n).await;
    }

    /// Somebody puts an object of their own in the place of one of ours.
    async fn lend(&mut self, n: u32) {
        let name = format!("lent-{n}");
        self.w.maps().delete(&name, &DeleteParams::default()).await.unwrap();
        let theirs = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        let theirs = self.w.maps().create(&PostParams::default(), &theirs).await.unwrap();
        self.foreign.insert(name, theirs.uid().unwrap());
    }

    /// Pushes while the controller is to die at `stop`; whether it came so far. With `again` there is another push before
    /// the next one starts.
    async fn change(&mut self, stop: Stop, again: bool) -> Option<String> {
        self.between.stop_at(stop);
        self.push().await;
        eventually("all is applied, or it is dead", 60, || async {
            (self.between.stopped().is_some() || self.applied().await).then_some(())
        })
        .await;
        let at = self.between.stopped();
        if at.is_some() {
            self.w.controller.kill();
            if again {
                self.push().await;
            }
        }
        self.between.go_on();
        if at.is_some() {
            self.w.restart(|| {});
        }
        self.settle().await;
        at
    }
}

fn stops() -> impl Iterator<Item = Stop> {
    (0..24).flat_map(|after| [false, true].map(|carried_out| Stop { of: "", after, carried_out }))
}

async fn dies_at_any_write(prefix: &str, again: bool) {
    let mut scene = Scene::new(prefix).await;
    let (mut died, mut lived) = (vec![], false);
    // What is there after a write is there before the next one that is not carried out: for another push one is enough.
    for stop in stops().filter(|stop| stop.carried_out || stop.after == 0 || !again) {
        let Some(at) = scene.change(stop, again).await else {
            lived = true;
            break;
        };
        died.push(at);
    }
    assert!(lived, "there are more writes than places to die: {died:#?}");
    // Objects of a stage are written in any order.
    for part in ["/status", "PATCH /api/v1"] {
        assert!(died.iter().any(|at| at.contains(part)), "{part}: {died:#?}");
    }
}

#[tokio::test]
async fn a_controller_that_dies_at_any_write_goes_on() {
    dies_at_any_write("kills", false).await;
}

/// What it was about is not in the files any more when the next one starts.
#[tokio::test]
async fn a_controller_that_dies_at_any_write_and_finds_another_push_leaks_nothing() {
    dies_at_any_write("kills-again", true).await;
}

/// The first apply of a Sync that is deleted before the next controller starts.
#[tokio::test]
async fn a_sync_that_goes_with_the_controller_leaves_nothing() {
    let (mut w, between) = World::behind("kills-new", &["--leader-elect", "false"]).await;
    let (mut died, mut lived) = (vec![], false);
    for (n, stop) in (1..).zip(stops()) {
        let (name, x, y) = (format!("s{n}"), format!("x{n}"), format!("y{n}"));
        w.commit(n, &[("x.yaml", map(&x, "one")), ("y.yaml", map(&y, "one"))]).await;
        between.stop_at(stop);
        w.sync(&name, json!({})).await;
        let at = eventually("all is applied, or it is dead", 60, || async {
            let status = w.syncs().get(&name).await.unwrap().status.unwrap_or_default();
            (between.stopped().is_some() || reason(&status) == ("True", "Applied")).then_some(())
        });
        at.await;
        let at = between.stopped();
        if at.is_some() {
            w.controller.kill();
        }
        between.go_on();
        w.syncs().delete(&name, &DeleteParams::default()).await.unwrap();
        if at.is_some() {
            w.restart(|| {});
        }
        eventually("the Sync is gone", 60, || async {
            w.syncs().get_opt(&name).await.unwrap().is_none().then_some(())
        })
        .await;
        for object in [&x, &y] {
            assert!(w.maps().get_opt(object).await.unwrap().is_none(), "{object} stays after {at:?}");
        }
        let Some(at) = at else {
            lived = true;
            break;
        };
        died.push(at);
    }
    assert!(lived, "it never came through: {died:#?}");
    for part in ["/status", "/configmaps/"] {
        assert!(died.iter().any(|at| at.contains(part)), "{part}: {died:#?}");
    }
}

/// What runs is not run again: the Task of each content is made once, wherever the controller dies.
#[tokio::test]
async fn a_task_of_a_controller_that_dies_is_made_once() {
    let (mut w, between) = World::behind("kills-task", &["--leader-elect", "false"]).await;
    let task = |run: u32| {
        format!(
            "apiVersion: pilothouse.dev/v1alpha1\nkind: Task\nmetadata:\n  name: t\n  \
             annotations: {{pilothouse.dev/run-id: '{run}'}}\nspec:\n  agentRef: {{name: nobody}}\n  description: do it\n"
        )
    };
    w.commit(1, &[("t.yaml", task(1))]).await;
    w.sync("app", json!({"wait": false})).await;
    w.until_applied("app", &format!("main@sha1:{:040x}", 1)).await;
    // The inventory before, the old Task, the new one, and the inventory after.
    let places = [("/syncs/app/status", 0), ("/tasks/t", 0), ("/tasks", 1), ("/syncs/app/status", 1)];
    let stops =
        places.into_iter().flat_map(|(of, after)| [false, true].map(|carried_out| Stop { of, after, carried_out }));
    for (n, stop) in (2..).zip(stops) {
        eventually("the Task waits", 30, || async { w.tasks().get("t").await.unwrap().status?.phase }).await;
        let log = w.log();
        between.stop_at(stop);
        let revision = w.commit(n, &[("t.yaml", task(n))]).await;
        eventually("it is dead", 60, || async { between.stopped() }).await;
        w.controller.kill();
        between.go_on();
        w.restart(|| {});
        let status = w.until_applied("app", &revision).await;
        let live = w.tasks().get("t").await.unwrap();
        assert_eq!(live.annotations()["pilothouse.dev/run-id"], n.to_string(), "{stop:?}");
        assert_eq!(entries(&status)[0].uid, live.uid(), "{stop:?}");
        let made = log.writes(&w.release.user()).into_iter().filter(|x| x.verb == "create" && x.resource() == "tasks");
        assert_eq!(made.filter(|x| x.code() == 201).count(), 1, "{stop:?}");
    }
}
