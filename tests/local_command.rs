//! `nats-sql-sink local`, as somebody starts it to try a configuration against.
#![cfg(feature = "local-stack")]
// A test says what it expects by panicking, in its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tiberius::{AuthMethod, Client, Config, IntoRow};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio_util::compat::{Compat, TokioAsyncWriteCompatExt as _};

struct Local {
    process: Child,
    _lines: Lines<BufReader<ChildStdout>>,
    told: String,
    sql_port: u16,
}

impl Local {
    /// Starts it, and waits until it has said where everything is.
    async fn start(arguments: &[&str]) -> Self {
        let ports =
            [local_stack::free_port(), local_stack::free_port()].map(|port| port.expect("a free port"));
        let mut process = Command::new(env!("CARGO_BIN_EXE_nats-sql-sink"))
            .arg("local")
            .args(["--nats-port", &ports[0].to_string(), "--sql-port", &ports[1].to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        let mut lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let mut told = String::new();
        while !told.contains("Stop it with") {
            let line = lines.next_line().await.expect("its output").expect("it runs");
            told.push_str(&line);
            told.push('\n');
        }
        Self { process, _lines: lines, told, sql_port: ports[1] }
    }

    /// What stands behind a word of what it told, up to the next comma or the end of the line.
    fn word_behind(&self, word: &str) -> String {
        let (_, rest) = self.told.split_once(word).unwrap_or_else(|| panic!("{word} in {}", self.told));
        rest.split([',', '\n']).next().expect("a word").trim().to_owned()
    }

    async fn connect(&self) -> Client<Compat<TcpStream>> {
        let mut config = Config::new();
        config.host("127.0.0.1");
        config.port(self.sql_port);
        config.database(self.word_behind("database "));
        config
            .authentication(AuthMethod::sql_server(self.word_behind("user "), self.word_behind("password ")));
        config.trust_cert_ca(self.word_behind("its CA "));
        let stream = TcpStream::connect(config.get_addr()).await.expect("a connection");
        Box::pin(Client::connect(config, stream.compat_write())).await.expect("a login")
    }
}

async fn load(client: &mut Client<Compat<TcpStream>>) -> tiberius::Result<u64> {
    let mut request = client.bulk_insert("dbo.t").await?;
    request.send(1i32.into_row()).await?;
    Ok(request.finalize().await?.total())
}

#[tokio::test]
async fn it_says_that_it_is_a_stand_in_and_fails_on_cue() {
    let folder = tempfile::tempdir().expect("a folder");
    let faults = folder.path().join("faults.toml");
    std::fs::write(&faults, "[[fault]]\non = 'bulk_load'\nnth = 2\nerror = 8645\n").expect("a file");
    let mut local = Local::start(&["--faults", faults.to_str().expect("a path")]).await;
    assert!(local.told.contains("a stand-in, not SQL Server"), "{}", local.told);
    assert!(local.told.contains("nats://127.0.0.1:"), "{}", local.told);

    let mut client = local.connect().await;
    client
        .simple_query("CREATE TABLE dbo.t (id int NOT NULL)")
        .await
        .expect("a table")
        .into_results()
        .await
        .expect("a table");
    assert_eq!(load(&mut client).await.expect("the first load"), 1);
    assert_eq!(load(&mut client).await.expect_err("the second load").code(), Some(8645));
    let mut client = local.connect().await;
    assert_eq!(load(&mut client).await.expect("the third load"), 1);

    let id = i32::try_from(local.process.id().expect("it runs")).expect("a process id");
    kill(Pid::from_raw(id), Signal::SIGTERM).expect("a signal");
    let status = tokio::time::timeout(Duration::from_secs(30), local.process.wait()).await;
    assert!(status.expect("it ends").expect("its status").success());
}
