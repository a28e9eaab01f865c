//! One listener for those who look after the process: `/metrics`, `/livez`, `/readyz`, and a page for people on `/`.

mod page;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Json};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::status::{PipelineSnapshot, StatusBoard};

/// How often the recorder sorts its samples into buckets. It keeps every one until then, asked or not.
const UPKEEP: Duration = Duration::from_secs(5);

/// How long an answer that is on its way may hold up a stop.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The listener cannot be had.
#[derive(Debug)]
pub struct BindError {
    /// Where it was to listen.
    pub address: SocketAddr,
    /// Why it cannot.
    pub source: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, source } = self;
        write!(formatter, "http.listen = \"{address}\": cannot listen there: {source}")?;
        let hint = match source.kind() {
            io::ErrorKind::AddrInUse => "another process does: give each its own port, or 0 for a free one",
            io::ErrorKind::AddrNotAvailable => {
                "this machine has no such address: 0.0.0.0 stands for all it has"
            }
            io::ErrorKind::PermissionDenied => "ports below 1024 may need a right: take a higher one",
            _ => return Ok(()),
        };
        write!(formatter, "\n    hint: {hint}")
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Listens; answers nothing yet.
///
/// # Errors
///
/// The address is taken, or is none of this machine's.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { address, source })
}

/// Answers until `stop` resolves, and then finishes the answers that are on their way, but does not wait long.
///
/// # Errors
///
/// The listener fails.
pub async fn serve(
    listener: TcpListener,
    board: StatusBoard,
    metrics: PrometheusHandle,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "http listens");
    }
    let _upkeep = AbortOnDropHandle::new(tokio::spawn(keep_up(metrics.clone())));
    let app = axum::Router::new()
        .route("/", get(status_page))
        .route("/metrics", get(metrics_text))
        .route("/livez", get(alive))
        .route("/readyz", get(readiness))
        .with_state(Served { board, metrics });
    let (stopping, stopped) = tokio::sync::oneshot::channel();
    let serving = axum::serve(listener, app).with_graceful_shutdown(async move {
        stop.await;
        // Nobody waits for it where the server has failed.
        let _ = stopping.send(());
    });
    let patience = async {
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(LAST_ANSWERS).await;
    };
    tokio::select! {
        ended = async { serving.await } => ended,
        () = patience => Ok(()),
    }
}

async fn keep_up(metrics: PrometheusHandle) {
    let mut ticks = tokio::time::interval(UPKEEP);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}

#[derive(Clone)]
struct Served {
    board: StatusBoard,
    metrics: PrometheusHandle,
}

/// That a task of the runtime answers is what it says.
async fn alive() -> &'static str {
    "ok\n"
}

async fn metrics_text(State(served): State<Served>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], served.metrics.render())
}

async fn status_page(State(served): State<Served>) -> impl IntoResponse {
    let headers = [
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    let credentials = served.board.credentials.snapshot();
    (headers, Html(page::render(&served.board.snapshot(), &credentials, std::time::SystemTime::now())))
}

/// The body of `/readyz`.
#[derive(Debug, Serialize)]
struct Readiness {
    ready: bool,
    pipelines: Vec<PipelineReadiness>,
}

#[derive(Debug, Serialize)]
struct PipelineReadiness {
    name: String,
    ready: bool,
    /// Why not; null where it is ready.
    reason: Option<String>,
    /// RFC 3339, in UTC.
    since: String,
}

impl From<PipelineSnapshot> for PipelineReadiness {
    fn from(snapshot: PipelineSnapshot) -> Self {
        Self {
            name: snapshot.name.to_string(),
            ready: snapshot.is_ready(),
            since: humantime::format_rfc3339_seconds(snapshot.since).to_string(),
            reason: snapshot.reason,
        }
    }
}

/// Ready is a process whose pipelines all are. One that has none yet is about to start them.
async fn readiness(State(served): State<Served>) -> impl IntoResponse {
    let pipelines: Vec<PipelineReadiness> = served.board.snapshot().into_iter().map(Into::into).collect();
    let ready = !pipelines.is_empty() && pipelines.iter().all(|pipeline| pipeline.ready);
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, [(header::CACHE_CONTROL, "no-store")], Json(Readiness { ready, pipelines }))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    use super::*;

    struct Server {
        address: SocketAddr,
        board: StatusBoard,
        stop: oneshot::Sender<()>,
        task: tokio::task::JoinHandle<io::Result<()>>,
    }

    async fn start() -> Server {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
        let address = listener.local_addr().expect("it has an address");
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        ::metrics::with_local_recorder(&recorder, || ::metrics::counter!("some_total").increment(3));
        let board = StatusBoard::new();
        let (stop, stopped) = oneshot::channel();
        let serving = serve(listener, board.clone(), recorder.handle(), async move {
            let _ = stopped.await;
        });
        Server { address, board, stop, task: tokio::spawn(serving) }
    }

    impl Server {
        /// The whole answer.
        async fn get(&self, path: &str) -> String {
            let mut stream = TcpStream::connect(self.address).await.expect("it listens");
            let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.expect("it reads");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("it answers");
            answer
        }
    }

    #[tokio::test]
    async fn answers_on_every_path() {
        let server = start().await;
        let status = server.board.pipeline("telemetry");
        // GIVEN a pipeline that is not ready
        status.not_started("no table <dbo.t> & no \"right\"");
        let answer = server.get("/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        let body: serde_json::Value =
            serde_json::from_str(answer.split("\r\n\r\n").nth(1).expect("a body")).expect("JSON");
        assert_eq!(body["ready"], false);
        assert_eq!(body["pipelines"][0]["name"], "telemetry");
        assert_eq!(body["pipelines"][0]["reason"], "no table <dbo.t> & no \"right\"");
        assert!(body["pipelines"][0]["since"].as_str().is_some_and(|since| since.ends_with('Z')), "{body}");
        let page = server.get("/").await;
        assert!(page.contains("no table &lt;dbo.t&gt; &amp; no &quot;right&quot;"), "{page}");
        // WHEN it is ready
        status.started();
        // THEN so is the process
        let answer = server.get("/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"reason\":null"), "{answer}");
        assert!(server.get("/livez").await.starts_with("HTTP/1.1 200"));
        assert!(server.get("/metrics").await.contains("some_total 3"));
        assert!(server.get("/other").await.starts_with("HTTP/1.1 404"));
    }

    #[tokio::test]
    async fn without_pipelines_it_lives_and_is_not_ready() {
        let server = start().await;
        assert!(server.get("/livez").await.starts_with("HTTP/1.1 200"));
        assert!(server.get("/readyz").await.starts_with("HTTP/1.1 503"));
    }

    #[tokio::test]
    async fn a_stop_does_not_wait_for_a_client_that_says_nothing() {
        let server = start().await;
        let mut silent = TcpStream::connect(server.address).await.expect("it listens");
        silent.write_all(b"GET /met").await.expect("it reads");
        server.get("/livez").await;
        server.stop.send(()).expect("it waits for it");
        let ended = tokio::time::timeout(Duration::from_secs(10), server.task).await.expect("it stops");
        assert!(ended.expect("no panic").is_ok());
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_an_error_with_a_hint() {
        let taken = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
        let address = taken.local_addr().expect("it has an address");
        let error = bind(address).await.expect_err("it is taken");
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains("hint: another process does"), "{error}");
    }
}
