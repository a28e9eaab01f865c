//! tiberius against a running server: what `clients/matrix.py` asks for, answered in lines of JSON.
//!
//!     tiberius_client tiberius SERVER.json capabilities | parameters | bulk | read WRITER

#![allow(clippy::print_stdout, reason = "matrix.py reads it")]

mod capabilities;
mod values;

use std::error::Error;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};
use tiberius::{
    AuthMethod, Client, ColumnData, Config, EncryptionLevel, Row, SqlBulkCopyOption, ToSql, TokenRow,
};
use tokio::net::TcpStream;
use tokio_util::compat::{Compat, TokioAsyncWriteCompatExt};

type Connection = Client<Compat<TcpStream>>;
type Answer<T> = Result<T, Box<dyn Error>>;

#[derive(Clone, Deserialize)]
struct Server {
    port: u16,
    user: String,
    password: String,
    database: String,
    ca_file: PathBuf,
}

#[derive(Deserialize)]
struct Type {
    #[serde(rename = "type")]
    sql_type: String,
    /// Of the matrix: the type, where it is not a part of its values.
    row: Option<String>,
    values: Vec<String>,
}

impl Type {
    fn row(&self) -> &str {
        self.row.as_deref().unwrap_or(&self.sql_type)
    }
}

/// A value as a parameter of its own type.
#[derive(Debug)]
struct Parameter(ColumnData<'static>);

impl ToSql for Parameter {
    fn to_sql(&self) -> ColumnData<'_> {
        self.0.clone()
    }
}

impl Server {
    async fn connect(&self, encryption: EncryptionLevel) -> tiberius::Result<Connection> {
        let mut config = Config::new();
        config.host("localhost");
        config.port(self.port);
        config.database(&self.database);
        config.authentication(AuthMethod::sql_server(&self.user, &self.password));
        config.encryption(encryption);
        config.trust_cert_ca(self.ca_file.display().to_string());
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        Box::pin(Client::connect(config, stream.compat_write())).await
    }
}

/// The rows of a batch's last result.
async fn batch(connection: &mut Connection, sql: &str) -> tiberius::Result<Vec<Row>> {
    Ok(connection.simple_query(sql).await?.into_results().await?.pop().unwrap_or_default())
}

async fn parameters(server: &Server) -> Answer<()> {
    for entry in types()? {
        let written = async {
            let mut connection = server.connect(EncryptionLevel::Required).await?;
            let create = format!("CREATE TABLE dbo.by_parameter_rust (n int, v {} NULL)", entry.sql_type);
            batch(&mut connection, &format!("BEGIN TRANSACTION; {create}")).await?;
            let values = entry.values.iter().map(|text| values::parse(&entry.sql_type, text));
            for (n, value) in (0i32..).zip(values.chain([values::null(&entry.sql_type)])) {
                let insert = "INSERT INTO dbo.by_parameter_rust VALUES (@P1, @P2)";
                connection.execute(insert, &[&n, &Parameter(value?)]).await?;
            }
            let rows = batch(&mut connection, "SELECT v FROM dbo.by_parameter_rust ORDER BY n").await?;
            // the table goes with the transaction
            shown(&entry.sql_type, rows)
        };
        match written.await {
            Ok(rows) => {
                let values: Vec<Value> = rows.into_iter().flatten().collect();
                println!("{}", json!({"row": entry.row(), "values": values}));
            }
            Err(error) => println!("{}", json!({"row": entry.row(), "error": error.to_string()})),
        }
    }
    Ok(())
}

async fn bulk(server: &Server, name: &str) -> Answer<()> {
    for (index, entry) in types()?.into_iter().enumerate() {
        let error = load(server, &table_of(name, index), &entry).await.err().map(|error| error.to_string());
        println!("{}", json!({"row": entry.row(), "error": error}));
    }
    Ok(())
}

async fn load(server: &Server, table: &str, entry: &Type) -> Answer<()> {
    let sql_type = &entry.sql_type;
    let mut connection = server.connect(EncryptionLevel::Required).await?;
    let create = format!("CREATE TABLE {table} (n int NOT NULL, o {sql_type} NULL, r {sql_type} NOT NULL)");
    batch(&mut connection, &create).await?;
    let mut values = Vec::new();
    for text in &entry.values {
        values.push(values::parse(sql_type, text)?);
    }
    let mut rows: Vec<_> = values.iter().map(|value| (value.clone(), value.clone())).collect();
    rows.push((values::null(sql_type)?, values[0].clone()));
    let options = SqlBulkCopyOption::KeepNulls.into();
    let mut request = connection.bulk_insert_with_options(table, &["*"], options, &[]).await?;
    for (n, (optional, required)) in (0i32..).zip(rows) {
        let mut row = TokenRow::new();
        row.push(ColumnData::I32(Some(n)));
        row.push(optional);
        row.push(required);
        request.send(row).await?;
    }
    request.finalize().await?;
    Ok(())
}

async fn read(server: &Server, writer: &str) -> Answer<()> {
    let mut connection = server.connect(EncryptionLevel::Required).await?;
    for (index, entry) in types()?.into_iter().enumerate() {
        let sql = format!("SELECT o, r FROM {} ORDER BY n", table_of(writer, index));
        let answer = match batch(&mut connection, &sql).await {
            Ok(rows) => shown(&entry.sql_type, rows),
            Err(error) => Err(error.into()),
        };
        match answer {
            Ok(rows) => println!("{}", json!({"row": entry.row(), "rows": rows})),
            Err(error) => println!("{}", json!({"row": entry.row(), "error": error.to_string()})),
        }
    }
    Ok(())
}

fn shown(sql_type: &str, rows: Vec<Row>) -> Answer<Vec<Vec<Value>>> {
    rows.into_iter()
        .map(|row| row.into_iter().map(|value| Ok(json!(values::show(sql_type, &value)?))).collect())
        .collect()
}

fn table_of(writer: &str, index: usize) -> String {
    format!("dbo.{}_{index}", writer.replace('-', "_"))
}

fn clients_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

fn types() -> Answer<Vec<Type>> {
    let mut types: Vec<Type> =
        serde_json::from_str(&std::fs::read_to_string(clients_folder().join("values.json"))?)?;
    for value in types.iter_mut().flat_map(|entry| &mut entry.values) {
        *value = values::expand(value)?;
    }
    Ok(types)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Answer<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, server, command, rest @ ..] = arguments.as_slice() else {
        return Err("NAME SERVER.json COMMAND".into());
    };
    let server: Server = serde_json::from_str(&std::fs::read_to_string(server)?)?;
    match (command.as_str(), rest) {
        ("capabilities", []) => Box::pin(capabilities::run(&server)).await,
        ("parameters", []) => Box::pin(parameters(&server)).await,
        ("bulk", []) => Box::pin(bulk(&server, name)).await,
        ("read", [writer]) => Box::pin(read(&server, writer)).await,
        _ => Err(format!("no command {command}").into()),
    }
}
