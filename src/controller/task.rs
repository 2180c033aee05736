//! Tasks: observe, decide with [`crate::task`], act, report.

mod act;
mod contexts;
mod index;
mod keep;
mod left;
mod listen;
mod places;
mod sight;
mod template;
mod view;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use parking_lot::Mutex;

use super::{
    Context, Loop,
    agent::sources::{GitInputs, Whose},
    history::{PATIENCE, SPARE},
    runtime::{Reconcile, Triggers},
    start,
    voice::Voices,
};
use crate::{
    api::{
        Task, TaskPhase, TaskStatus,
        names::{self, reasons},
    },
    status::{Failure, Next},
    task::{
        self, Act, AgentView, Cleanup, Decision, Ledger, Place, PodState, Start, World, quota, retry::Before, seen,
        step,
    },
};
use contexts::Awaited;
use index::Index;
use keep::Kept;
use left::Left;
use sight::{Lag, Sight};

/// How long an agent's pods are told to stop a session.
const ABORT: Duration = Duration::from_mins(2);

/// The reconciler of Tasks.
pub struct Tasks {
    context: Context,
    voices: Arc<Voices>,
    triggers: Triggers<Task>,
    index: Index,
    ledger: Mutex<Ledger>,
    /// What pods of their own get from Git.
    git: Arc<GitInputs>,
    /// Tasks that wait for their contexts, or for what their template is made of.
    awaited: Mutex<Awaited>,
    sight: Sight,
    kept: Kept,
    left: Left,
    /// Agents as the listeners saw them last: only a change that matters wakes a queue.
    agents: Mutex<HashMap<(String, String), AgentView>>,
    /// Statuses written, with the `resourceVersion` that their writer had seen: the cache may not show them yet.
    written: Mutex<HashMap<String, (String, TaskStatus)>>,
    labelled: Mutex<HashSet<String>>,
    /// Pods as they were when they vanished, by namespace and name: the kubelet takes a pod away right after it has
    /// said how it ended.
    farewells: Mutex<HashMap<(String, String), Pod>>,
}

/// Prepares the loop.
pub fn prepare(context: &Context, voices: Arc<Voices>) -> Loop {
    let triggers = Triggers::default();
    let tasks = Arc::new(Tasks {
        context: context.clone(),
        voices,
        triggers: triggers.clone(),
        index: Index::default(),
        ledger: Mutex::default(),
        git: GitInputs::new(context, wake(&triggers)),
        awaited: Mutex::default(),
        sight: Sight::default(),
        kept: Kept::default(),
        left: Left::default(),
        agents: Mutex::default(),
        written: Mutex::default(),
        labelled: Mutex::default(),
        farewells: Mutex::default(),
    });
    listen::attach(&tasks);
    let recorded = triggers.clone();
    context.history.on_recorded(move |namespace, name| recorded.now(namespace, name));
    let switched = triggers.clone();
    context.task_starts.on_switched(move |namespace, name| switched.now(namespace, name));
    start(tasks, context.caches.tasks.clone(), triggers)
}

fn wake(triggers: &Triggers<Task>) -> Whose {
    let triggers = triggers.clone();
    Whose::tasks(move |namespace, task| triggers.now(namespace, task))
}

impl Reconcile for Tasks {
    type Object = Task;

    async fn reconcile(&self, object: Arc<Task>) -> Result<Next, Failure> {
        if self.set_label(&object).await? {
            return Ok(Next::OnEvent);
        }
        let task = self.newest(&object);
        let world = self.observe(&task).await?;
        let world = match self.with_template(&task, world).await {
            Ok(world) => world,
            Err(failure) => return self.start_failed(&task, failure).await,
        };
        let decision = self.decide(&task, &world);
        let (world, decision) = match self.inform(&task, world, decision).await {
            Ok(informed) => informed,
            Err(failure) => return self.start_failed(&task, failure).await,
        };
        let decision = match decision {
            Decision { act: Act::Start(objects), .. } => match self.go(&task, &world, &objects).await {
                Ok(Ok(decision)) => decision,
                Ok(Err(next)) => return Ok(next),
                Err(failure) => return self.start_failed(&task, failure).await,
            },
            other => other,
        };
        match &decision.act {
            Act::Delete => {
                self.context.reports.events(&*task, decision.notes);
                return self.delete(&task).await;
            }
            Act::Stop { uid } => self.delete_pod(&task, uid, None).await?,
            Act::Remove { uid } => self.delete_pod(&task, uid, Some(0)).await?,
            Act::StandAside | Act::Nothing | Act::Start(_) => {}
        }
        if task::retry::leaves_session(&task, &decision.status) {
            self.abort(&task);
        }
        if task::retry::drops_session(&task, &decision.status) {
            self.stop_sessions(&task, Before::Everywhere).await;
        }
        if is_between(&decision) {
            self.give_way(&task);
        }
        let next = self.report(&task, decision).await?;
        // Many may wait for names that somebody took.
        Ok(if world.pod == PodState::Foreign { next.spread(rand::random()) } else { next })
    }
}

impl Tasks {
    /// The Task with the status that this process wrote last, if the cache does not show it yet.
    fn newest(&self, cached: &Arc<Task>) -> Arc<Task> {
        let uid = cached.uid().unwrap_or_default();
        let mut written = self.written.lock();
        match written.get(&uid) {
            Some((seen, status)) if Some(seen) == cached.metadata.resource_version.as_ref() => {
                Arc::new(Task { status: Some(status.clone()), ..(**cached).clone() })
            }
            _ => {
                written.remove(&uid);
                cached.clone()
            }
        }
    }

    async fn observe(&self, task: &Task) -> Result<World, Failure> {
        let namespace = task.namespace().unwrap_or_default();
        let agent = task::agent_of(task).and_then(|name| self.agent(&namespace, name));
        let config = view::config(&self.context.caches);
        // One that verifies stays until it is remembered what came of it.
        let verifies = agent.as_ref().is_some_and(|a| a.verified_by(task).is_some());
        let cleanup = config.as_ref().and_then(|c| c.spec.cleanup.clone()).filter(|_| !verifies);
        let cleanup = cleanup.filter(|_| task::is_finished(task) && !self.is_kept(task)).unwrap_or_default();
        let retained = cleanup.max_retained_tasks.and_then(|n| usize::try_from(n).ok());
        let (pod, waits, has_own) = (self.pod(task).await?, waits(task), task::template_of(task).is_some());
        let cleans = cleanup.ttl_seconds_after_finished.is_some() || retained.is_some();
        let surplus = |spare: usize| {
            retained.is_some_and(|max| self.index.is_surplus(&namespace, &task.name_any(), max.saturating_add(spare)))
        };
        Ok(World {
            agent,
            // Read last, for a Task that would start: see `with_template`.
            template: Ok(None),
            // Places are given last, to a Task that would start: see `admit`.
            place: Place::Held,
            contexts: if waits && !has_own { self.missing(task).map(|()| String::new()) } else { Ok(String::new()) },
            rank: self.rank(task),
            pod,
            settings: view::settings(config.as_deref(), &self.context.settings),
            cleanup: Cleanup {
                ttl_seconds: cleanup.ttl_seconds_after_finished.and_then(|n| u32::try_from(n).ok()),
                surplus: surplus(0),
                unrecorded: if cleans { self.unrecorded(task, surplus(SPARE)) } else { None },
            },
        })
    }

    /// Until when a finished Task is kept for the history, which has not taken it yet. One that is far beyond what the
    /// namespace keeps is not.
    fn unrecorded(&self, task: &Task, far_beyond: bool) -> Option<Timestamp> {
        if !task::is_finished(task) || self.context.history.is_recorded(task) {
            return None;
        }
        let until = task::ended(task).checked_add(PATIENCE).unwrap_or(Timestamp::MAX);
        Some(if far_beyond { Timestamp::MIN } else { until })
    }

    /// The agent as the listeners saw it last. They wake its Tasks after they have put it there.
    fn agent(&self, namespace: &str, name: &str) -> Option<AgentView> {
        self.agents.lock().get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// The pod from the cache. Where the cache lacks the pod of a Task that runs, or of one whose start had no clear
    /// outcome, the API server is asked: the cache may be behind the pod's creation, and nobody may be declared lost by
    /// that.
    async fn pod(&self, task: &Task) -> Result<PodState, Failure> {
        let (namespace, uid) = (task.namespace().unwrap_or_default(), task.uid().unwrap_or_default());
        let name = names::task::pod(&task.name_any());
        let cached = self.context.caches.task_pods.get(&namespace, &name);
        let state = seen::read(cached.as_deref(), &uid);
        let (runs, starts) =
            (task::phase(task) == Some(TaskPhase::Running), self.context.task_starts.is_starting(&uid));
        if state != PodState::Absent || !(runs || starts) {
            return Ok(state);
        }
        match seen::read(self.live_pod(&namespace, &name).await?.as_ref(), &uid) {
            PodState::Absent if !runs => {
                self.context.task_starts.settle(&uid);
                Ok(PodState::Absent)
            }
            PodState::Absent => Ok(self.farewell(&namespace, &name, &uid)),
            state => Ok(state),
        }
    }

    /// How a pod that is gone ended, if it said so.
    fn farewell(&self, namespace: &str, name: &str, uid: &str) -> PodState {
        let farewells = self.farewells.lock();
        match seen::read(farewells.get(&(namespace.into(), name.into())), uid) {
            PodState::Ours(view) if view.ending.is_some() => PodState::Ours(view),
            _ => PodState::Absent,
        }
    }

    /// Decides; a Task whose pod's name is taken by somebody else gives way.
    fn decide(&self, task: &Task, world: &World) -> Decision {
        if world.pod == PodState::Foreign && !task::is_finished(task) {
            self.give_way(task);
        }
        step(task, world, self.context.now())
    }

    /// Gives a Task that would start the pod that its template comes to. Nothing else needs to be read for it.
    async fn with_template(&self, task: &Task, world: World) -> Result<World, Failure> {
        let starts = waits(task) && world.pod == PodState::Absent && !task::stop_asked(task);
        if !starts || step::refused(task).is_some() {
            return Ok(world);
        }
        Ok(World { template: self.template(task).await?, ..world })
    }

    /// Gives a Task that would start the text of its contexts, or decides again without.
    async fn inform(&self, task: &Task, world: World, decision: Decision) -> Result<(World, Decision), Failure> {
        if !matches!(decision.act, Act::Start(_)) || task.spec.contexts.is_none() || world.template != Ok(None) {
            return Ok((world, decision));
        }
        let world = World { contexts: self.contexts(task).await?, ..world };
        let decision = self.decide(task, &world);
        Ok((world, decision))
    }

    /// Starts a Task that has all it needs once there is a place for it, and room in the window. Or when it has to
    /// look again.
    async fn go(&self, task: &Task, world: &World, objects: &Start) -> Result<Result<Decision, Next>, Failure> {
        let namespace = task.namespace().unwrap_or_default();
        let verifies = world.agent.as_ref().is_some_and(|a| a.verified_by(task).is_some());
        // A pod of its own takes nobody's place, and its name makes it one.
        if !verifies && task::agent_of(task).is_some() {
            if let Some(lag) = self.lag(&namespace).await? {
                return Ok(self.behind(task, &lag));
            }
            let start = quota::start(task, self.context.now());
            let mut place = self.place(task, &start);
            if place == Place::Held
                && let Some(agent) = &world.agent
                && !self.record(task, agent, &start).await?
            {
                // Somebody else has used the window up.
                place = self.place(task, &start);
            }
            if matches!(place, Place::Full | Place::Spent { .. }) {
                return Ok(Ok(self.decide(task, &World { place, ..world.clone() })));
            }
        }
        if !self.is_alone(task).await {
            let message = "waiting until the agent's pods have stopped what the last try left behind";
            return Ok(Ok(step::delayed(task, reasons::RETRYING, message, left::AGAIN, self.context.now())));
        }
        if !self.may_start(task) {
            // The end of the switch wakes it.
            return Ok(Err(Next::OnEvent));
        }
        let pod = self.start(task, objects).await?;
        Ok(Ok(self.decide(task, &World { pod, ..world.clone() })))
    }

    /// Waits until the caches show what was there before this process led.
    fn behind(&self, task: &Task, lag: &Lag) -> Result<Decision, Next> {
        let message = format!("waiting until the controller sees pod {}, which may have a place of the agent", lag.pod);
        let said = || step::delayed(task, reasons::CATCHING_UP, &message, lag.wait, self.context.now());
        if lag.tell { Ok(said()) } else { Err(Next::After(lag.wait)) }
    }

    /// The place of a Task or a try that has ended is free at once, not only when the cache shows the status.
    fn free_place(&self, task: &Task, status: &TaskStatus) {
        let ended = Task { status: Some(status.clone()), ..task.clone() };
        if task::is_finished(&ended) && !task::is_finished(task) {
            self.file(&ended, false);
        } else if status.tries.len() > task::tries(task) {
            let uid = task.uid().unwrap_or_default();
            self.ledger.lock().block(&uid);
            self.context.task_starts.settle(&uid);
            self.file(&ended, false);
        }
    }

    /// Stops the sessions of a Task that nobody follows any more.
    fn abort(&self, task: &Task) {
        let (namespace, name) = (task.namespace().unwrap_or_default(), task.name_any());
        let title = names::task::session_title(&namespace, &name, &task.uid().unwrap_or_default());
        if let Some(agent) = task::agent_of(task) {
            self.voices.abort(&namespace, agent, &title, ABORT);
        }
    }

    async fn report(&self, task: &Task, decision: Decision) -> Result<Next, Failure> {
        self.free_place(task, &decision.status);
        self.context.reports.status(task, &task.status, &decision.status).await?;
        self.count(task, &decision.status);
        if task.status.as_ref() != Some(&decision.status) {
            let seen = task.resource_version().unwrap_or_default();
            self.written.lock().insert(task.uid().unwrap_or_default(), (seen, decision.status));
        }
        self.context.reports.events(task, decision.notes);
        Ok(decision.next)
    }

    /// Counts the Task as work of its agent from now on. Not while the agent's pods are being replaced.
    fn may_start(&self, task: &Task) -> bool {
        let (namespace, agent) = (task.namespace().unwrap_or_default(), task::agent_of(task).unwrap_or_default());
        let (name, uid) = (task.name_any(), task.uid().unwrap_or_default());
        self.context.task_starts.start(&namespace, agent, (&name, &uid))
    }

    /// Counts a Task that ran, once its end is written.
    fn count(&self, task: &Task, status: &TaskStatus) {
        let ends = status.phase.is_some_and(TaskPhase::is_terminal) && !task::is_finished(task);
        let (Some(start), Some(end)) = (&status.start_time, &status.completion_time) else { return };
        if ends {
            // One with a pod of its own has none.
            let agent = task::agent_of(task).unwrap_or_default();
            let took = Duration::try_from(end.0.duration_since(start.0)).unwrap_or_default();
            self.context.metrics.task_ended(&task.namespace().unwrap_or_default(), agent, took);
        }
    }

    /// The place goes to the next in the queue until this Task is tried again.
    fn give_way(&self, task: &Task) {
        self.ledger.lock().block(&task.uid().unwrap_or_default());
        self.wake(&task.namespace().unwrap_or_default(), task::agent_of(task).unwrap_or_default());
    }

    async fn start_failed(&self, task: &Task, failure: Failure) -> Result<Next, Failure> {
        self.give_way(task);
        self.report(task, step::start_failed(task, &failure, self.context.now())).await?;
        Err(failure)
    }
}

/// Whether the Task has not begun, or waits for another try.
fn waits(task: &Task) -> bool {
    !task::phase(task).is_some_and(|phase| phase == TaskPhase::Running || phase.is_terminal())
}

/// Whether the Task is between two tries, or lacks something, so that others go first.
fn is_between(decision: &Decision) -> bool {
    let queued = decision.status.phase == Some(TaskPhase::Queued);
    queued && matches!(decision.act, Act::StandAside | Act::Stop { .. } | Act::Remove { .. })
}
