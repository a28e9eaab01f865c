//! The quick version of the fuzz (`make fuzz`): the whole corpus, and a few mutants of it. See `examples/fuzz`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use local_stack::postgres::{Postgres, PostgresOptions};
use local_stack::sql_server::fuzz::{Corpus, TARGETS, input, mutate_session, play};
use local_stack::sql_server::{SqlServer, SqlServerOptions, Storage};

const SEED: u64 = 20;
const MUTANTS_OF_A_PARSER: u64 = 3000;
const MUTANTS_OF_SESSIONS: u64 = 100;
/// A machine with other things to do may take long; what hangs takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

#[test]
fn every_parser_has_inputs_and_keeps_its_promises() {
    let corpus = Corpus::read(&folder()).unwrap();
    for target in TARGETS {
        let kept = corpus.of(target.name);
        assert!(!kept.is_empty(), "{}: no input", target.name);
        let mutants = (0..MUTANTS_OF_A_PARSER).map(|index| input(SEED, index, target, &corpus));
        for (index, bytes) in kept.iter().cloned().chain(mutants).enumerate() {
            let started = Instant::now();
            if let Err(what) = (target.run)(&bytes) {
                panic!("{}, input {index}: {what}: {bytes:?}", target.name);
            }
            assert!(started.elapsed() < PATIENCE, "{}, input {index}: {bytes:?}", target.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_outlives_sessions_of_any_bytes() {
    let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let options = SqlServerOptions::new(Storage::Discard(postgres.config()));
    let server = SqlServer::start(options).await.unwrap();
    let corpus = Corpus::read(&folder()).unwrap();
    let sessions = corpus.of("session");
    let mut answered = 0;
    for session in sessions {
        answered += play(server.address(), session, PATIENCE).await.unwrap();
    }
    // a login and more, of each
    assert!(answered > 300 * sessions.len(), "{answered} bytes of answers");
    let dictionary: Vec<&[u8]> =
        TARGETS.iter().flat_map(|target| target.dictionary.iter().copied()).collect();
    for index in 0..MUTANTS_OF_SESSIONS {
        let session = mutate_session(SEED, index, sessions, &dictionary);
        if let Err(what) = play(server.address(), &session, PATIENCE).await {
            panic!("session {index}: {what}");
        }
    }
    // a session that panicked is gone; the server is not, and answers as before
    assert!(play(server.address(), &sessions[0], PATIENCE).await.unwrap() > 300);
}
