use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    controller::{
        report::Reports,
        runtime::{Crew, Runtime},
        shift::Loop,
    },
    status::Backoff,
};

const DURATION: Duration = Duration::from_secs(12);

/// An API server that knows one Lease.
#[derive(Clone, Default)]
struct Cluster(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    lease: Option<Value>,
    version: u64,
    /// A write is carried out at once, and answered after this.
    late: Duration,
    /// Nothing reaches it.
    silent: bool,
    /// When it was written last.
    written: Option<Instant>,
}

impl Cluster {
    fn client(&self) -> Client {
        let cluster = self.clone();
        let answer = move |request: Request<Body>| {
            let cluster = cluster.clone();
            async move { Ok::<_, std::io::Error>(cluster.answer(request).await) }
        };
        Client::new(tower::service_fn(answer), "default")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        if self.0.lock().silent {
            std::future::pending::<()>().await;
        }
        let (parts, body) = request.into_parts();
        if parts.method == Method::GET {
            let lease = self.0.lock().lease.clone();
            return lease.map_or_else(|| status(StatusCode::NOT_FOUND, "NotFound"), |lease| json_answer(&lease));
        }
        let lease: Value = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap();
        let (written, late) = (self.write(lease), self.0.lock().late);
        tokio::time::sleep(late).await;
        written.map_or_else(|| status(StatusCode::CONFLICT, "Conflict"), |lease| json_answer(&lease))
    }

    fn write(&self, mut lease: Value) -> Option<Value> {
        let mut state = self.0.lock();
        let known = state.lease.as_ref().map(|lease| lease["metadata"]["resourceVersion"].clone());
        if known.is_some_and(|known| known != lease["metadata"]["resourceVersion"]) {
            return None;
        }
        state.version += 1;
        lease["metadata"]["resourceVersion"] = json!(state.version.to_string());
        (state.lease, state.written) = (Some(lease.clone()), Some(Instant::now()));
        Some(lease)
    }

    fn holder(&self) -> Option<String> {
        Some(self.0.lock().lease.as_ref()?["spec"]["holderIdentity"].as_str()?.to_owned())
    }

    fn candidate(&self) -> Candidate {
        let election = Election {
            namespace: "ns".into(),
            lease: "lease".into(),
            identity: "me".into(),
            address: String::new(),
            duration: DURATION,
        };
        Candidate::new(self.client(), election, watch::Sender::default())
    }
}

fn json_answer(body: &Value) -> Response<Body> {
    Response::new(Body::from(body.to_string().into_bytes()))
}

fn status(code: StatusCode, reason: &str) -> Response<Body> {
    let body =
        json!({"kind": "Status", "status": "Failure", "code": code.as_u16(), "reason": reason, "message": reason});
    let mut answer = json_answer(&body);
    *answer.status_mut() = code;
    answer
}

/// The API server may have written a renewal long before its answer came: others count from the write.
#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_gives_up_before_another_begins_however_late_the_answers_came() {
    for late in [0, 500, 2000, 3900, 4900] {
        let cluster = Cluster::default();
        let mut candidate = cluster.candidate();
        cluster.0.lock().late = Duration::from_millis(late).min(Duration::from_millis(3900));
        candidate.acquired().await;
        cluster.0.lock().late = Duration::from_millis(late);
        let begun = Instant::now();
        let goes_silent = async {
            sleep(Duration::from_mins(1)).await;
            cluster.0.lock().silent = true;
            std::future::pending::<()>().await;
        };
        tokio::select! { () = candidate.lost() => {}, () = goes_silent => {} }
        assert!(begun.elapsed() > Duration::from_mins(1) || late > 3900, "{late}: it keeps what it can renew");
        let since = cluster.0.lock().written.unwrap().elapsed();
        assert!(since < DURATION, "{late}: others may have begun, {since:?} after the last renewal");
    }
}

/// One that took the Lease a moment ago and never hears of it again.
#[tokio::test(start_paused = true)]
async fn a_leader_that_can_never_renew_gives_up_before_another_begins() {
    let cluster = Cluster::default();
    cluster.0.lock().late = Duration::from_millis(3900);
    let mut candidate = cluster.candidate();
    candidate.acquired().await;
    cluster.0.lock().silent = true;
    candidate.lost().await;
    let since = cluster.0.lock().written.unwrap().elapsed();
    assert!(since < DURATION, "others may have begun, {since:?} after it was taken");
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_given_back_also_while_it_is_renewed() {
    let cluster = Cluster::default();
    let mut candidate = cluster.candidate();
    candidate.acquired().await;
    cluster.0.lock().late = Duration::from_secs(2);
    // In the middle of the first renewal.
    assert!(timeout(Duration::from_secs(4), candidate.lost()).await.is_err());
    cluster.0.lock().late = Duration::ZERO;
    candidate.release().await;
    assert_eq!(cluster.holder().as_deref(), Some(""));
}

#[tokio::test(start_paused = true)]
async fn the_lease_of_another_is_left_alone() {
    let cluster = Cluster::default();
    let mut candidate = cluster.candidate();
    candidate.acquired().await;
    let mut theirs = cluster.0.lock().lease.clone().unwrap();
    theirs["spec"]["holderIdentity"] = json!("another");
    cluster.write(theirs).unwrap();
    candidate.release().await;
    assert_eq!(cluster.holder().as_deref(), Some("another"));
}

/// One loop that writes every second, and does not end by itself: what it wrote last, and the end of its shift.
async fn lead(
    cluster: &Cluster,
    happens: impl AsyncFnOnce(CancellationToken),
) -> (Option<Instant>, Result<(), Failure>) {
    let (crew, stop, wrote) = (Crew::new(Arc::default()), CancellationToken::new(), Arc::new(Mutex::new(None)));
    let mut candidate = cluster.candidate();
    candidate.acquired().await;
    let writing = wrote.clone();
    let writes = Loop::new("writes", move |_| async move {
        loop {
            sleep(Duration::from_secs(1)).await;
            *writing.lock() = Some(Instant::now());
        }
    });
    let runtime = Runtime {
        concurrency: 1,
        backoff: Backoff::default(),
        stop: stop.clone(),
        metrics: Arc::default(),
        reports: Reports::new(cluster.client(), "test", &crew),
    };
    let begin = || Shift::begin(vec![writes], &runtime, crew.clone(), Duration::from_secs(20));
    let metrics = Metrics::default();
    let (ended, ()) = tokio::join!(while_leading(candidate, &metrics, begin), happens(stop.clone()));
    assert!(metrics.render().contains("pilothouse_leader 0"));
    let last = *wrote.lock();
    sleep(Duration::from_hours(1)).await;
    assert_eq!(*wrote.lock(), last, "nothing is written afterwards");
    (last, ended)
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_given_back_when_nothing_writes_any_more() {
    let cluster = Cluster::default();
    let (last, ended) = lead(&cluster, async |stop| {
        sleep(Duration::from_millis(30_500)).await;
        stop.cancel();
    })
    .await;
    ended.unwrap();
    assert_eq!(cluster.holder().as_deref(), Some(""));
    assert!(
        last < cluster.0.lock().written,
        "it worked on to the end of its time, and not after it gave the Lease back"
    );
}

#[tokio::test(start_paused = true)]
async fn who_lost_the_lease_works_no_more_and_gives_nothing_back() {
    let cluster = Cluster::default();
    let (last, ended) = lead(&cluster, async |_| {
        sleep(Duration::from_secs(30)).await;
        cluster.0.lock().silent = true;
    })
    .await;
    assert_eq!(ended.unwrap_err().reason, reasons::LEADERSHIP_LOST);
    assert_eq!(cluster.holder().as_deref(), Some("me"));
    let renewed = cluster.0.lock().written.unwrap();
    assert!(last.unwrap().duration_since(renewed) < DURATION, "it wrote when others may have begun");
}
