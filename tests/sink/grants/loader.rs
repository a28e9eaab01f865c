//! None of what the loader is granted can be left out: without it, what needed it says so by its name.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;

use super::stand::{
    Kind, MINUTE, PASSWORD, Stand, Without, clean_sql, kind, prepare_sql, role, sink, subjects, without_each,
};
use crate::support::{Sink, Sql, World, eventually};

const PATIENCE: Duration = Duration::from_secs(40);

async fn says(sink: &Sink, what: &str, pieces: &[&str]) {
    eventually(&format!("it says {pieces:?} without {what}"), PATIENCE, async || {
        let status = sink.get("/readyz").await.map(|(_, body)| body).unwrap_or_default();
        // the body is JSON, in which quotes are escaped
        let said = format!("{}\n{}", status.replace("\\\"", "\""), sink.log().replace("\\\"", "\""));
        said.lines().any(|line| pieces.iter().all(|piece| line.contains(piece))).then_some(())
    })
    .await;
}

/// GIVEN pipelines, and for each right on a subject a user without it
/// WHEN a worker runs as that user
/// THEN it names the right, which no time-out does.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_without_any_right_on_a_subject_the_worker_names_it() {
    let world = World::start().await;
    let port = local_stack::free_port().expect("a free port");
    let mut sql = world.sql().await;
    prepare_sql(&mut sql, &[]).await;
    let kinds = ["appended", "keyed", "once", "counted"].map(kind);
    make_own_tables(&mut sql, &sink(&world, port, &kinds, "admin", "nobody")).await;
    let mut users = format!("authorization {{ users: [ {{ user: admin, password: {PASSWORD:?} }}\n");
    let mut tasks = Vec::new();
    for own in &kinds {
        let printed = role(&sink(&world, port, std::slice::from_ref(own), "x", "sink"), "loader").await;
        let mut withouts = Vec::new();
        for (without, text) in without_each(own.name, &subjects(&printed)) {
            users.push_str(&text);
            withouts.push(without);
        }
        tasks.push((own.clone(), withouts));
    }
    users.push_str("] }");
    let stand = Stand::start(world, port, &users).await;
    let counts: Vec<usize> = tasks.iter().map(|(_, withouts)| withouts.len()).collect();
    println!("rights on subjects: {counts:?}");
    assert!(counts.iter().all(|count| *count > 8), "{counts:?}");
    let stand = &stand;
    join_all(tasks.into_iter().map(|(own, withouts)| async move {
        for (id, without) in withouts.iter().enumerate() {
            without_subject(stand, port, &own, without, id as u64).await;
        }
    }))
    .await;
    sql.execute(&format!("CREATE TABLE {} (n int)", kind("made").table())).await;
    clean_sql(&mut sql).await;
}

async fn without_subject(stand: &Stand, port: u16, kind: &Kind, without: &Without, id: u64) {
    let (Without { user, verb, subject }, named) = (without, without.named());
    let mut worker = with_password_of_admin(stand, port, kind, user);
    if subject == "$SYS.REQ.USER.INFO" {
        let (_, output, _) = worker.command(&["check"]).await;
        assert!(output.contains(&format!("this user publish on {subject:?}")), "{output}");
        assert!(output.contains("warning  nats rights: cannot be looked at"), "{output}");
        let (status, output, _) = worker.command(&["check", "--strict"]).await;
        let failed = output.contains("FAILED   nats rights: cannot be looked at");
        assert!(!status.success() && failed, "{output}");
        return;
    }
    // and `check` finds it before it does any harm
    if verb == &"publish" {
        let (status, output, _) = worker.command(&["check"]).await;
        let told = format!("{verb} on {subject:?} is missing");
        assert!(!status.success() && output.contains(&told), "{told}\n{output}");
    }
    free_partitions(stand, kind).await;
    stand.publish_good_and_bad(kind, id).await;
    if subject.contains("STREAM.MSG.GET") {
        stand.publish_unreadable(kind).await;
    }
    worker.start();
    // what is needed at a stop alone
    if subject.starts_with("_INBOX") && *verb == "publish" || subject.contains("CONSUMER.DELETE") {
        if !subject.starts_with("_INBOX") {
            eventually("a partition is read", PATIENCE, async || {
                (worker.metric("nats_sql_sink_events_received_total").await? > 0.0).then_some(())
            })
            .await;
        } else {
            worker.ready(PATIENCE).await;
        }
        worker.terminate(MINUTE).await;
        assert!(worker.log().contains(&named), "{named}\n{}", worker.log());
        return;
    }
    says(&worker, subject, &[&named]).await;
    let (status, body) = worker.get("/readyz").await.expect("an answer");
    assert!(status == 503 && body.contains(&named.replace('"', "\\\"")), "{named}: {body}");
    worker.kill().await;
}

/// A worker that may do everything in the database.
fn with_password_of_admin(stand: &Stand, port: u16, kind: &Kind, user: &str) -> Sink {
    let sink = sink(&stand.world, port, std::slice::from_ref(kind), user, "x");
    let text = std::fs::read_to_string(&sink.config).expect("the configuration");
    let (name, _) = stand.world.sql_login();
    let auth = format!("user = \"{name}\", password_file = \"sql.password\" }}");
    let text = text.replace("user = \"x\", password_file = \"grants.password\" }", &auth);
    std::fs::write(&sink.config, text).expect("a configuration");
    sink
}

/// The sink's own, as an owner of the database would.
async fn make_own_tables(sql: &mut Sql, sink: &Sink) {
    let (_, ddl, _) = sink.command(&["ddl"]).await;
    let own = ddl.split_once("IF SCHEMA_ID").expect("its own tables").1;
    sql.execute(&format!("IF SCHEMA_ID{own}")).await;
}

/// Nobody waits for the lease of a worker that was killed.
async fn free_partitions(stand: &Stand, kind: &Kind) {
    let mut sql = stand.world.sql().await;
    if sql.number("SELECT COALESCE(OBJECT_ID(N'nats_sql_sink.leases'), 0)").await != 0 {
        let name = kind.name;
        sql.execute(&format!("UPDATE nats_sql_sink.leases SET owner = NULL WHERE pipeline = N'{name}'"))
            .await;
    }
}

/// GIVEN pipelines, and for each right in the database a user without it
/// WHEN a worker runs as that user
/// THEN it names the right and what it is on.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_without_any_right_in_the_database_the_worker_names_it() {
    let world = World::start().await;
    let port = local_stack::free_port().expect("a free port");
    let mut sql = world.sql().await;
    prepare_sql(&mut sql, &[]).await;
    let users = format!("authorization {{ users: [ {{ user: admin, password: {PASSWORD:?} }} ] }}");
    let stand = Stand::start(world, port, &users).await;
    let kinds = ["appended", "keyed", "made", "once"].map(kind);
    make_own_tables(&mut sql, &sink(&stand.world, port, &kinds, "admin", "nobody")).await;
    let stand = &stand;
    let counts = join_all(kinds.iter().map(|kind| async move {
        let worker = sink(&stand.world, port, std::slice::from_ref(kind), "admin", "nobody");
        let printed = role(&worker, "loader").await;
        let rights = printed["sql"]["rights"].as_array().expect("a list").clone();
        let mut sql = stand.world.sql().await;
        for index in 0..rights.len() {
            without_permission(stand, port, kind, &rights, index, &mut sql).await;
        }
        rights.len()
    }))
    .await;
    println!("rights in the database: {counts:?}");
    assert_eq!(counts, [5, 3, 4, 15]);
    sql.execute(&format!("IF OBJECT_ID(N'{0}') IS NULL CREATE TABLE {0} (n int)", kind("made").table()))
        .await;
    clean_sql(&mut sql).await;
}

fn grant(right: &Value, to: &str) -> String {
    let permission = right["permission"].as_str().expect("a permission");
    match right["on"].as_str() {
        None => format!("GRANT {permission} TO {to}"),
        Some(on) => {
            format!("GRANT {permission} ON {}::{on} TO {to}", right["class"].as_str().expect("a class"))
        }
    }
}

async fn without_permission(
    stand: &Stand,
    port: u16,
    kind: &Kind,
    rights: &[Value],
    index: usize,
    sql: &mut Sql,
) {
    let user = format!("grants_{}_{index}", kind.name);
    sql.execute(&format!("CREATE USER {user} WITH PASSWORD = '{PASSWORD}'")).await;
    for (_, right) in rights.iter().enumerate().filter(|(other, _)| *other != index) {
        sql.execute(&grant(right, &user)).await;
    }
    let (right, on) = (&rights[index], rights[index]["on"].as_str());
    let permission = right["permission"].as_str().expect("a permission");
    let mut worker = sink(&stand.world, port, std::slice::from_ref(kind), "admin", &user);
    free_partitions(stand, kind).await;
    if kind.name == "once" {
        // so that the worker begins with it again, and has to enter it
        for table in ["progress", "leases"] {
            sql.execute(&format!("DELETE FROM nats_sql_sink.{table} WHERE pipeline = N'once'")).await;
        }
    }
    if kind.creates_table {
        sql.execute(&format!("IF OBJECT_ID(N'{0}') IS NOT NULL DROP TABLE {0}", kind.table())).await;
    }
    let (status, output, _) = worker.command(&["check"]).await;
    let told = format!(
        "{permission}{} is missing",
        on.map(|on| format!(" ON {}::{on}", right["class"].as_str().unwrap())).unwrap_or_default()
    );
    assert!(!status.success() && output.contains(&told), "{told}\n{output}");
    stand.publish_good_and_bad(kind, 1).await;
    worker.start();
    let bare = on.map(|on| on.rsplit('[').next().unwrap_or_default().trim_end_matches(']').to_owned());
    let bare = bare.as_deref().unwrap_or("sinkdb");
    let schema = format!("schema name \"grants_{}\"", kind.name);
    let named: Vec<&str> = match (permission, right["class"].as_str()) {
        ("CREATE TABLE", _) => vec!["262", "CREATE TABLE permission denied"],
        ("ALTER", Some("SCHEMA")) => vec!["2760", "ALTER on it is missing", &schema],
        // on the schema of a table that is made: the table is what it is missed on
        (_, Some("SCHEMA")) => vec!["229", permission, "'rows'"],
        _ => vec!["229", permission, bare],
    };
    if permission == "DELETE" && bare == "workers" {
        worker.ready(PATIENCE).await;
        worker.terminate(MINUTE).await;
        let log = worker.log();
        assert!(log.lines().any(|line| named.iter().all(|piece| line.contains(piece))), "{named:?}\n{log}");
    } else {
        says(&worker, permission, &named).await;
        worker.kill().await;
    }
    sql.execute(&format!("DROP USER {user}")).await;
}
