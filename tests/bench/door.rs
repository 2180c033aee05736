//! What the door in front of an opencode server costs.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use base64::Engine as _;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client as Pool, rt::TokioExecutor};
use tokio::runtime::Runtime;

use crate::{common::controller::pilothouse, table::Number, world};

/// Connections at once while the sidecar's memory is filled.
const CLIENTS: usize = 16;

/// Requests that count, and those before them that do not.
const REQUESTS: usize = 2000;
const WARM: usize = 200;

/// `door_added_latency_ms`: what the door adds to one small request on loopback: through the door of a `pilothouse sidecar`,
/// less the median of the same request without it. The server behind answers at once and keeps its connections, so
/// nothing hides the door.
///
/// `sidecar_own_mib`: memory of that `pilothouse sidecar` that no file backs (`RssAnon`), after these requests, and after
/// as many from several clients at the same time. It is what each further agent of a node costs.
///
/// `sidecar_rss_mib`: the same with the pages of its program file, which all sidecars of a node share.
pub(crate) fn measure(runtime: &Runtime) -> Vec<Number> {
    let (samples, own, resident): (Vec<f64>, f64, f64) = runtime.block_on(async {
        let files = tempfile::tempdir().unwrap();
        let server = instant_server().await;
        let (mut sidecar, door) = sidecar(files.path(), server);
        let url = format!("http://127.0.0.1:{door}");
        world::until(Duration::from_secs(10), || async { ask(&pool(), &url).await.ok() }).await;
        let mut direct = times(&format!("http://127.0.0.1:{server}")).await;
        let through = times(&url).await;
        futures::future::join_all((0..CLIENTS).map(|_| times(&url))).await;
        let (own, resident) = (memory_mib(sidecar.id(), "RssAnon:"), memory_mib(sidecar.id(), "VmRSS:"));
        sidecar.kill().unwrap();
        let _ = sidecar.wait();
        direct.sort_by(f64::total_cmp);
        let direct = direct[direct.len() / 2];
        eprintln!("without the door: {direct:.3} ms");
        (through.into_iter().map(|ms| ms - direct).collect(), own, resident)
    });
    vec![
        Number::new("door_added_latency_ms", "ms", 1.0, samples),
        Number::new("sidecar_own_mib", "MiB", 8.0, vec![own]),
        Number::new("sidecar_rss_mib", "MiB", 20.0, vec![resident]),
    ]
}

/// A line of a process's status.
fn memory_mib(process: u32, name: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
}

fn sidecar(files: &Path, server: u16) -> (Child, u16) {
    let (auth, workspace) = (files.join("auth"), files.join("workspace"));
    std::fs::create_dir(&auth).unwrap();
    std::fs::create_dir(&workspace).unwrap();
    std::fs::write(auth.join("username"), "opencode").unwrap();
    std::fs::write(auth.join("password"), "secret").unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new(pilothouse());
    command
        .args(["sidecar", "--log", "warn", "--door", &free.to_string(), "--server-port", &server.to_string()])
        .arg("--auth-dir")
        .arg(auth)
        .arg("--workspace")
        .arg(workspace)
        .stderr(Stdio::null());
    (command.spawn().unwrap(), free.port())
}

async fn instant_server() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = axum::Router::new().fallback(|| async { "ok" });
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    port
}

type Requests = Pool<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>;

fn pool() -> Requests {
    Pool::builder(TokioExecutor::new()).build_http()
}

async fn ask(pool: &Requests, base: &str) -> Result<(), hyper_util::client::legacy::Error> {
    let password = base64::engine::general_purpose::STANDARD.encode("opencode:secret");
    let request = Request::get(format!("{base}/session/status"))
        .header("authorization", format!("Basic {password}"))
        .body(Full::default())
        .unwrap();
    let response = pool.request(request).await?;
    assert_eq!(response.status(), 200);
    response.into_body().collect().await.unwrap();
    Ok(())
}

async fn times(base: &str) -> Vec<f64> {
    let pool = pool();
    let mut times = vec![];
    for count in 0..WARM + REQUESTS {
        let begun = Instant::now();
        ask(&pool, base).await.unwrap();
        if count >= WARM {
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
    }
    times
}
