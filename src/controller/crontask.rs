//! `CronTasks`: observe, decide with [`crate::schedule`], act, report.

mod act;
mod children;
mod clock;
mod memory;

use std::{collections::BTreeSet, sync::Arc};

use kube::ResourceExt;

use super::{
    Context, Loop,
    runtime::{Reconcile, Triggers},
    start,
};
use crate::{
    api::{CronTask, CronTaskStatus, Task, names::annotation},
    schedule::{Act, World, decide, due_after},
    status::{Failure, Next, Note},
};
use act::{Made, Sight};
use children::{Children, Owner, owner_of};
use memory::Memory;

/// Things done for one object in a row; more is a fault, and it is looked at again.
const STEPS: usize = 200;

/// The reconciler of `CronTasks`.
pub struct CronTasks {
    context: Context,
    triggers: Triggers<CronTask>,
    children: Children,
    memory: Memory,
}

/// A reconcile on its way.
struct Work {
    /// The object as it is now, as far as this process knows.
    cron: CronTask,
    /// The status that it began with.
    before: Option<CronTaskStatus>,
    /// Versions of the object that are older than what this process knows.
    older: BTreeSet<String>,
    taken: BTreeSet<String>,
    /// Uids of Tasks that were asked to stop: each is asked once, whatever the cache shows meanwhile.
    stopped: BTreeSet<String>,
    notes: Vec<Note>,
}

/// Prepares the loop.
pub fn prepare(context: &Context) -> Loop {
    let triggers = Triggers::default();
    let crontasks = Arc::new(CronTasks {
        context: context.clone(),
        triggers: triggers.clone(),
        children: Children::default(),
        memory: Memory::default(),
    });
    let this = crontasks.clone();
    context.caches.tasks.on_change(move |change| {
        if let Some((namespace, name)) = this.children.update(change.object, change.deleted) {
            this.triggers.now(&namespace, &name);
        }
    });
    for task in context.caches.tasks.all() {
        crontasks.children.update(&task, false);
    }
    let watched = Arc::downgrade(&crontasks);
    context.crew.keep("clock", move || clock::watch(watched.clone()));
    start(crontasks, context.caches.crontasks.clone(), triggers)
}

impl Reconcile for CronTasks {
    type Object = CronTask;

    async fn reconcile(&self, object: Arc<CronTask>) -> Result<Next, Failure> {
        self.context.metrics.crontask_seen(&object.namespace().unwrap_or_default());
        let mut work = self.memory.begin(&object);
        let own = owner_of(&object);
        for _ in 0..STEPS {
            let world = self.world(&own, &work);
            let decision = decide(&work.cron, &world, self.context.now());
            if matches!(decision.act, Act::Create(_)) {
                match self.look(&object, &mut work).await? {
                    Sight::Same => {}
                    Sight::Newer => continue,
                    Sight::Gone => return Ok(Next::OnEvent),
                }
            }
            work.notes.extend(decision.notes);
            work.cron.status = Some(decision.status);
            match decision.act {
                Act::Nothing => return self.report(&object, work, decision.next).await,
                Act::Create(task) => {
                    if self.create(&object, &mut work, *task).await? {
                        return Ok(Next::OnEvent);
                    }
                }
                Act::Stop { name, uid: child } => {
                    self.stop(&work.cron, &name, &child).await?;
                    self.children.stopping(&own, &child);
                    work.stopped.insert(child);
                }
                Act::Claim { at } => {
                    if !self.write_trigger(&mut work, Some(&at.to_string())).await? {
                        return Ok(Next::OnEvent);
                    }
                }
                Act::Clear => {
                    if !self.write_trigger(&mut work, None).await? {
                        return Ok(Next::OnEvent);
                    }
                    // Counted now: the next Task begins with the status as it was written.
                    let next = self.report(&object, work, decision.next).await?;
                    self.triggers.now(&object.namespace().unwrap_or_default(), &object.name_any());
                    return Ok(next);
                }
            }
        }
        self.triggers.now(&object.namespace().unwrap_or_default(), &object.name_any());
        Ok(Next::OnEvent)
    }

    fn forget(&self, namespace: &str, name: &str) {
        self.memory.forget(namespace, name);
    }
}

impl CronTasks {
    fn world(&self, own: &Owner, work: &Work) -> World {
        let mut children = self.children.of(own);
        for child in children.iter_mut().filter(|child| work.stopped.contains(&child.uid)) {
            child.stopping = true;
        }
        World { children, taken: work.taken.clone() }
    }

    /// Makes a Task. Whether that is all for now: the status follows in a turn of its own, behind the Tasks of others that are
    /// due at the same time.
    async fn create(&self, object: &CronTask, work: &mut Work, task: Task) -> Result<bool, Failure> {
        let by_hand = work.cron.annotations().contains_key(annotation::TRIGGER);
        let name = task.name_any();
        match self.make(&work.cron, &task).await {
            Ok(Made::Ours(child)) => {
                let slot = task.annotations().get(annotation::SCHEDULED_AT).and_then(|at| at.parse().ok());
                let late = slot.filter(|_| !by_hand).map(|slot| due_after(&work.cron, slot, self.context.now()));
                self.context.metrics.crontask_ran(&object.namespace().unwrap_or_default(), late);
                self.children.made(&owner_of(object), child);
                self.context.reports.events(object, std::mem::take(&mut work.notes));
                work.cron.status.clone_from(&work.before);
                self.memory.keep(object, work);
                self.triggers.now(&object.namespace().unwrap_or_default(), &object.name_any());
                Ok(true)
            }
            Ok(Made::Taken) => {
                work.taken.insert(name);
                Ok(false)
            }
            Err(failure) => {
                self.creation_failed(object, work, &failure).await?;
                work.cron.status.clone_from(&work.before);
                self.memory.keep(object, work);
                Err(failure)
            }
        }
    }

    async fn report(&self, object: &CronTask, mut work: Work, next: Next) -> Result<Next, Failure> {
        let status = work.cron.status.clone().unwrap_or_default();
        self.context.reports.status(object, &work.before, &status).await?;
        self.count_skip(object, work.before.as_ref(), &status);
        self.children.counted(&owner_of(object));
        self.context.reports.events(object, std::mem::take(&mut work.notes));
        self.memory.keep(object, &work);
        Ok(next)
    }

    fn count_skip(&self, object: &CronTask, before: Option<&CronTaskStatus>, after: &CronTaskStatus) {
        let skip = after.last_skip.as_ref().filter(|skip| before.and_then(|b| b.last_skip.as_ref()) != Some(skip));
        if let Some(skip) = skip {
            self.context.metrics.crontask_skipped(&object.namespace().unwrap_or_default(), &skip.reason);
        }
    }

    /// Looks at all of them: the clock was set.
    fn look_at_all(&self) {
        for cron in self.context.caches.crontasks.all() {
            self.triggers.now(&cron.namespace().unwrap_or_default(), &cron.name_any());
        }
    }
}
