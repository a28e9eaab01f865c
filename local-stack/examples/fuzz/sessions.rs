//! Whole connections, against a server in this process whose storage is `discard`.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use local_stack::postgres::{Postgres, PostgresOptions};
use local_stack::sql_server::fuzz::{Corpus, TARGETS, mutate_session, play};
use local_stack::sql_server::{SqlServer, SqlServerOptions, Storage};

use crate::Options;
use crate::process::{MEMORY_LIMIT_KIB, peak_kib, report};

/// Side by side: a server has several clients.
const CONNECTIONS: u64 = 4;
/// A statement that waits for a lock of another session ends with that session; WAITFOR ends with its client.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    // as a server has them
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(fuzz(options))
}

async fn fuzz(options: &Options) -> Result<(), Box<dyn Error>> {
    let postgres = Postgres::start(PostgresOptions::default()).await?;
    let server = SqlServer::start(SqlServerOptions::new(Storage::Discard(postgres.config()))).await?;
    let address = server.address();
    let corpus = Arc::new(Corpus::read(&Options::corpus())?.of("session").to_vec());
    if corpus.is_empty() {
        return Err("the corpus has no session".into());
    }
    let dictionary: Arc<Vec<&'static [u8]>> =
        Arc::new(TARGETS.iter().flat_map(|target| target.dictionary.iter().copied()).collect());
    // a task's panic is caught, and would only end its connection
    let has_panicked = Arc::new(AtomicBool::new(false));
    let flag = has_panicked.clone();
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        flag.store(true, Ordering::SeqCst);
        print(info);
    }));
    for session in corpus.iter() {
        play(address, session, PATIENCE).await?;
    }
    if let Some(index) = options.replay {
        let session = mutate_session(options.seed, index, &corpus, &dictionary);
        eprintln!("{:?}", String::from_utf8_lossy(&session));
        println!("{:?}", play(address, &session, PATIENCE).await);
        return Ok(());
    }
    let started = Instant::now();
    let before = peak_kib();
    let next = Arc::new(AtomicU64::new(options.from));
    let answered = Arc::new(AtomicU64::new(0));
    let failed = Arc::new(AtomicBool::new(false));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (options, corpus, dictionary) = (options.clone(), corpus.clone(), dictionary.clone());
        let (next, answered, failed) = (next.clone(), answered.clone(), failed.clone());
        let has_panicked = has_panicked.clone();
        tasks.spawn(async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let is_late = options.limit.is_some_and(|limit| started.elapsed() >= limit);
                if index >= options.inputs || is_late || failed.load(Ordering::Relaxed) {
                    next.fetch_sub(1, Ordering::Relaxed);
                    return;
                }
                let session = mutate_session(options.seed, index, &corpus, &dictionary);
                let problem = match play(address, &session, PATIENCE).await {
                    Ok(bytes) => {
                        answered.fetch_add(bytes as u64, Ordering::Relaxed);
                        None
                    }
                    Err(what) => Some(what),
                };
                let growth = peak_kib().saturating_sub(before);
                let problem = problem
                    .or_else(|| {
                        has_panicked.load(Ordering::SeqCst).then(|| "a panic, here or beside".to_owned())
                    })
                    .or_else(|| {
                        (growth > MEMORY_LIMIT_KIB)
                            .then(|| format!("memory grew by {growth} KiB, here or before"))
                    });
                if let Some(what) = problem {
                    failed.store(true, Ordering::Relaxed);
                    let _ = report("session", index, options.seed, &what, &session);
                    return;
                }
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    let failed = failed.load(Ordering::Relaxed) || has_panicked.load(Ordering::SeqCst);
    println!(
        "{} sessions in {} s with seed {}, {} bytes of answers: peak of resident memory grew by {} KiB; {}",
        next.load(Ordering::Relaxed) - options.from,
        started.elapsed().as_secs(),
        options.seed,
        answered.load(Ordering::Relaxed),
        peak_kib().saturating_sub(before),
        if failed { "FAILED" } else { "no panic, no hang" },
    );
    if failed { Err("sessions were found that break something".into()) } else { Ok(()) }
}
