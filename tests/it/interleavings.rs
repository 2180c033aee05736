//! The promise, step by step: a Task, a person, the gate and the cluster do what they do in any order, and no session is
//! ever lost. The parts are the real ones (the door's activity, the gate, the register of starts, what an answer means
//! to a Task); only what lies between them is a model.
//!
//! Each guard is also taken away once: then the same orders must find a fault, so that this test can fail.

use std::time::{Duration, Instant};

use http::Method;
use pilothouse::{
    agent::gate::{Activity as Doing, Applied, Ask, Change, GateInput, Policy, Verdict, Work, decide},
    pod::{
        opencode::{Error, SessionStatus},
        sidecar::{
            activity::{Activity, QUIET},
            work::try_begin,
        },
        task_run::taken::Sent,
    },
    task::Starts,
};

const ORDERS: u64 = 4000;
const STEPS: usize = 70;

/// Which guards are in place.
#[derive(Clone, Copy)]
struct Guards {
    /// A Task stays with the pod that took its prompt.
    pinned: bool,
    /// The gate counts Tasks from before their pods are written, and lets none start while it switches.
    starts: bool,
    /// The gate counts with prompts held.
    held: bool,
    /// An old pod goes only when its work has ended and was read.
    drained: bool,
    /// A write without an answer is settled before anybody may work.
    settled: bool,
}

const ALL: Guards = Guards { pinned: true, starts: true, held: true, drained: true, settled: true };

struct Pod {
    activity: Activity,
    up: bool,
    /// In the Service.
    ready: bool,
    /// By `task` and `person`: whether the prompt is here, and how far it is.
    prompts: [Prompt; 2],
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Prompt {
    None,
    Taken,
    Works,
    Answered,
}

const TASK: usize = 0;
const PERSON: usize = 1;
const NAMES: [&str; 2] = ["task", "person"];

#[derive(Clone, Copy, PartialEq, Debug)]
enum Task {
    Queued,
    /// Registered; its pod is not written yet.
    Started,
    /// Its pod runs and looks for the agent.
    Looks,
    /// It talks to this pod.
    At(usize),
    /// Its session is open there.
    Open(usize),
    /// Its prompt was taken there.
    Follows(usize),
    Done,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Gate {
    Looks,
    Switching,
    Held,
    Confirmed,
    /// The write was sent and no answer came.
    Unanswered,
    Written,
    Over,
}

struct World {
    guards: Guards,
    /// The new revision comes beside the old one, whatever goes on.
    beside: bool,
    now: Instant,
    pods: [Pod; 2],
    task: Task,
    /// Whether the caches show the Task's pod.
    cached: bool,
    person: bool,
    gate: Gate,
    /// The version of the Deployment, and the one that a write without an answer names while it may still land.
    version: u32,
    sent: Option<u32>,
    /// Answers get lost once, so that every order ends.
    lost: bool,
    /// Whether the new pod template is in the cluster.
    landed: bool,
    starts: Starts,
    story: Vec<String>,
}

type Step = (&'static str, fn(&mut World));

impl World {
    fn new(guards: Guards, beside: bool) -> Self {
        let now = Instant::now();
        let pod = |up| {
            let mut activity = if beside { Activity::lasting(now) } else { Activity::new(now) };
            activity.follow(true, now);
            Pod { activity, up, ready: up, prompts: [Prompt::None; 2] }
        };
        let pods = [pod(true), pod(false)];
        let (task, gate, starts) = (Task::Queued, Gate::Looks, Starts::default());
        let (version, sent, lost, landed, story) = (1, None, false, false, vec![]);
        let (cached, person) = (false, false);
        Self { guards, beside, now, pods, task, cached, person, gate, version, sent, lost, landed, starts, story }
    }

    /// What can happen now.
    fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = vec![];
        let mut may = |can: bool, name, step: fn(&mut Self)| {
            if can {
                steps.push((name, step));
            }
        };
        let old = &self.pods[0];
        may(self.task == Task::Queued, "the Task may start", Self::start);
        may(self.task == Task::Started, "its pod is written", |w| w.task = Task::Looks);
        let written = !matches!(self.task, Task::Queued | Task::Started);
        may(written && !self.cached, "the caches show it", Self::cache);
        may(self.task == Task::Looks, "a pod answers the Task", Self::pin);
        may(matches!(self.task, Task::At(_)), "it opens its session", Self::open);
        may(matches!(self.task, Task::Open(_)), "it sends its prompt", Self::prompt);
        may(matches!(self.task, Task::Follows(_)), "it looks at its session", Self::look);
        may(!self.person, "a person sends a prompt", Self::ask);
        may(self.any(Prompt::Taken), "a server begins", |w| w.serve(Prompt::Taken));
        may(self.any(Prompt::Works), "a server answers", |w| w.serve(Prompt::Works));
        may(self.gate == Gate::Looks, "the gate looks", Self::gate_looks);
        may(self.gate == Gate::Switching, "the gate has prompts held", Self::hold);
        may(self.gate == Gate::Held, "the gate counts", Self::confirm);
        may(self.gate == Gate::Confirmed, "the new pod template is written", |w| {
            w.send();
            w.land();
            w.gate = Gate::Written;
        });
        may(self.gate == Gate::Confirmed && !self.lost, "no answer comes to the write", Self::lose);
        may(self.sent.is_some(), "the write lands", Self::land);
        may(self.gate == Gate::Unanswered, "the write is settled", Self::settle);
        may(self.gate == Gate::Written, "prompts are released", Self::release);
        may(self.landed && !self.pods[1].up, "the new pod is ready", |w| {
            (w.pods[1].up, w.pods[1].ready) = (true, true);
        });
        may(self.pods[1].ready && old.ready, "the old pod is told to end", Self::end);
        may(!old.ready && old.up && self.may_go(), "the old pod goes", Self::go);
        steps
    }

    fn any(&self, state: Prompt) -> bool {
        self.pods.iter().any(|pod| pod.up && pod.prompts.contains(&state))
    }

    /// Drained: idle, and nobody is still to read.
    fn may_go(&self) -> bool {
        !self.guards.drained || self.pods[0].activity.idle(self.now) && self.task != Task::Follows(0)
    }

    fn start(&mut self) {
        if !self.guards.starts || self.starts.start("ns", "a", "uid") {
            self.task = Task::Started;
        }
    }

    fn cache(&mut self) {
        self.cached = true;
        self.starts.settle("uid");
    }

    /// The Service leads to any ready pod: to the new one where both are, so that the way from one to the other is
    /// walked often.
    fn service(&self) -> Option<usize> {
        [1, 0].into_iter().find(|n| self.pods[*n].ready)
    }

    fn pin(&mut self) {
        if let Some(pod) = self.service() {
            self.task = Task::At(pod);
        }
    }

    fn open(&mut self) {
        let Task::At(pod) = self.task else { return };
        self.task = if self.pods[pod].up { Task::Open(pod) } else { Task::Looks };
    }

    fn prompt(&mut self) {
        let Task::Open(pinned) = self.task else { return };
        let pod = if self.guards.pinned { Some(pinned) } else { self.service() };
        let answer = pod.map_or_else(gone, |pod| self.knock(pod, pinned, TASK));
        self.task = match Sent::of(&answer) {
            Sent::Taken => Task::Follows(pinned),
            Sent::Elsewhere => Task::Looks,
            Sent::Unknown | Sent::Refused => panic!("no answer of a door: {answer:?}"),
        };
    }

    /// A prompt at a door. A held one is told to come again.
    fn knock(&mut self, pod: usize, session_in: usize, who: usize) -> Result<(), Error> {
        let now = self.now;
        let pod_now = &mut self.pods[pod];
        if !pod_now.up {
            return gone();
        }
        match try_begin(&mut pod_now.activity, Some(NAMES[who]), now) {
            Err(_) | Ok(Some(_)) => refused(503),
            Ok(None) if pod != session_in => {
                pod_now.activity.end(Some(NAMES[who]), true, now);
                panic!("lost: the prompt came to a pod without its session")
            }
            Ok(None) => {
                pod_now.activity.end(Some(NAMES[who]), false, now);
                assert!(self.pods.iter().all(|pod| pod.prompts[who] == Prompt::None), "done twice");
                self.pods[pod].prompts[who] = Prompt::Taken;
                Ok(())
            }
        }
    }

    fn look(&mut self) {
        let Task::Follows(pinned) = self.task else { return };
        let Some(pod) = (if self.guards.pinned { Some(pinned) } else { self.service() }) else { return };
        assert!(pod == pinned && self.pods[pod].up, "lost: no pod that answers knows the session");
        if self.pods[pod].prompts[TASK] == Prompt::Answered {
            self.task = Task::Done;
        }
    }

    fn ask(&mut self) {
        let Some(pod) = self.service() else { return };
        self.person = self.knock(pod, pod, PERSON).is_ok();
    }

    fn serve(&mut self, state: Prompt) {
        let now = self.now;
        for pod in self.pods.iter_mut().filter(|pod| pod.up) {
            let Some(who) = pod.prompts.iter().position(|p| *p == state) else { continue };
            let (next, status) = match state {
                Prompt::Taken => (Prompt::Works, SessionStatus::Busy),
                _ => (Prompt::Answered, SessionStatus::Idle),
            };
            pod.prompts[who] = next;
            return pod.activity.status(NAMES[who], &status, now);
        }
    }

    fn tasks(&self) -> usize {
        let known = self.cached || self.guards.starts && self.starts.is_starting("uid");
        usize::from(known && self.task != Task::Done)
    }

    fn verdict(&self, activity: Doing) -> Verdict {
        let causes = ["image".to_owned()].into();
        decide(&GateInput {
            change: Change::Template,
            desired: "new",
            applied: Some(&Applied { hash: "old".into(), suspended: false }),
            pending: None,
            causes: &causes,
            work: Work { running_tasks: self.tasks(), activity },
            policy: Policy::default(),
            beside: self.beside.then_some(0),
            ask: Ask::Nothing,
            now: jiff::Timestamp::UNIX_EPOCH,
        })
    }

    fn gate_looks(&mut self) {
        let idle = self.pods[0].activity.snapshot(self.now).without_work();
        if let Verdict::Open { .. } = self.verdict(if idle { Doing::Idle } else { Doing::Busy }) {
            self.starts.switch("ns", "a");
            self.gate = Gate::Switching;
        }
    }

    fn hold(&mut self) {
        let until = self.now + QUIET * 100_000;
        if self.guards.held {
            self.pods[0].activity.hold(until, self.now);
        }
        self.gate = Gate::Held;
    }

    fn confirm(&mut self) {
        let pod = &self.pods[0].activity;
        let quiet = pod.idle(self.now) && (!self.guards.held || pod.snapshot(self.now).held);
        if let Verdict::Open { .. } = self.verdict(if quiet { Doing::Idle } else { Doing::Busy }) {
            self.gate = Gate::Confirmed;
        } else {
            self.let_go();
            self.gate = Gate::Looks;
        }
    }

    fn send(&mut self) {
        self.sent = Some(self.version);
    }

    fn lose(&mut self) {
        self.send();
        self.lost = true;
        self.gate = Gate::Unanswered;
    }

    /// A write after which the one without an answer has landed or never does; then the Deployment is read.
    fn settle(&mut self) {
        if self.guards.settled {
            self.version += 1;
            self.gate = if self.landed { Gate::Written } else { Gate::Looks };
        } else {
            self.gate = Gate::Looks;
        }
        if self.gate == Gate::Looks {
            self.let_go();
        }
    }

    /// The API server carries a write out if it names the version that is there.
    fn land(&mut self) {
        if self.sent.take() != Some(self.version) {
            return;
        }
        if !self.beside {
            self.overlooks_nobody();
        }
        self.version += 1;
        self.landed = true;
    }

    fn overlooks_nobody(&self) {
        assert!(
            matches!(self.task, Task::Queued | Task::Done),
            "overlooked: a Task that had started ({:?})",
            self.task
        );
        let busy = |pod: &Pod| pod.prompts.iter().any(|p| matches!(p, Prompt::Taken | Prompt::Works));
        assert!(!busy(&self.pods[0]), "overlooked: a prompt that was taken");
    }

    fn let_go(&mut self) {
        self.pods[0].activity.release(self.now);
        self.starts.switched("ns", "a");
    }

    fn release(&mut self) {
        self.let_go();
        self.gate = Gate::Over;
    }

    fn end(&mut self) {
        self.pods[0].ready = false;
        self.pods[0].activity.drain(self.now);
    }

    fn go(&mut self) {
        let cut = self.pods[0].prompts.iter().any(|p| matches!(p, Prompt::Taken | Prompt::Works));
        assert!(!cut, "lost: the pod goes while it works");
        self.pods[0].up = false;
    }

    fn take(&mut self, step: Step) {
        self.now += QUIET;
        self.story.push(step.0.into());
        step.1(self);
        // Long enough for the door to see that nothing changes any more.
        self.now += QUIET;
    }

    /// Some order, then whatever is left until both the Task and the rollout are through.
    fn run(&mut self, mut seed: u64) {
        for _ in 0..STEPS {
            let steps = self.steps();
            if steps.is_empty() {
                break;
            }
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let which = usize::try_from(seed >> 33).unwrap() % steps.len();
            self.take(steps[which]);
        }
        for _ in 0..20 {
            for step in self.steps() {
                // An earlier one of the round may have made it impossible.
                if self.steps().iter().any(|now| now.0 == step.0) {
                    self.take(step);
                }
            }
        }
        assert_eq!((self.task, self.gate), (Task::Done, Gate::Over), "it goes on for ever");
        assert!(!self.pods[0].up, "the old pod never goes");
    }
}

fn refused(status: u16) -> Result<(), Error> {
    Err(Error::Refused { method: Method::POST, path: String::new(), status, message: String::new() })
}

fn gone() -> Result<(), Error> {
    Err(Error::Unreachable { url: String::new(), why: String::new(), sent: false })
}

/// The first fault that some order finds: what and how.
fn fault(guards: Guards, beside: bool) -> Option<String> {
    (0..ORDERS).find_map(|seed| {
        let mut world = World::new(guards, beside);
        let run = std::panic::AssertUnwindSafe(|| world.run(seed));
        let what = std::panic::catch_unwind(run).err()?;
        let text = what.downcast_ref::<String>().cloned();
        let text = text.or_else(|| what.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
        Some(format!("{text}\n  after: {}", world.story.join("\n         ")))
    })
}

#[test]
fn no_order_of_steps_loses_a_session() {
    assert!(Duration::from_secs(15) > QUIET * 2 * u32::try_from(STEPS).unwrap(), "steps stay within a prompt's grace");
    for beside in [false, true] {
        if let Some(fault) = fault(ALL, beside) {
            panic!("side by side: {beside}: {fault}");
        }
    }
}

#[test]
fn without_any_of_the_guards_some_order_does() {
    for (guards, expected) in [
        (Guards { pinned: false, ..ALL }, "lost"),
        (Guards { drained: false, ..ALL }, "lost"),
        (Guards { starts: false, ..ALL }, "overlooked: a Task"),
        (Guards { held: false, ..ALL }, "overlooked: a prompt"),
        (Guards { settled: false, ..ALL }, "overlooked: a"),
    ] {
        let fault = fault(guards, false).expect(expected);
        assert!(fault.starts_with(expected), "{fault}");
    }
    // Side by side nothing is counted before the write: these two alone keep who works.
    for guards in [Guards { pinned: false, ..ALL }, Guards { drained: false, ..ALL }] {
        let fault = fault(guards, true).expect("lost");
        assert!(fault.starts_with("lost"), "{fault}");
    }
}
