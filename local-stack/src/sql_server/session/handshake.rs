//! From the first byte to a login that holds.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::super::Shared;
use super::super::error::SqlError;
use super::super::faults::Admission;
use super::super::login::{Encryption, Login7, MAX_LOGIN_BYTES, PreLogin, write_prelogin};
use super::super::packet::{
    ConnectionError, DEFAULT_PACKET_BYTES, MAX_ENCRYPTED_PACKET_BYTES, MAX_PACKET_BYTES, MIN_PACKET_BYTES,
    PacketKind, PacketReader, PacketWriter,
};
use super::super::tls::{HandshakeStream, Transport};
use super::super::token::{
    Done, DoneKind, EnvironmentChange, write_done, write_environment_change, write_error, write_feature_ack,
    write_info, write_login_ack,
};
use super::super::types::Collation;
use super::{Reader, Writer};

/// How long a client may take from the connection to its login.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(15);
const TDS_7_1: u32 = 0x7100_0000;
const TDS_8_0: u32 = 0x0800_0000;
/// The first byte of a TLS record with a handshake; no TDS packet begins with it.
const TLS_HANDSHAKE: u8 = 0x16;

/// A client that may stay.
pub(super) struct Accepted {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    pub(super) user: String,
    pub(super) admission: Admission,
}

/// Leads a client through PRELOGIN, TLS and LOGIN7. `None` where its login was refused.
pub(super) async fn accept(
    stream: TcpStream,
    shared: &Arc<Shared>,
) -> Result<Option<Accepted>, ConnectionError> {
    tokio::time::timeout(HANDSHAKE_LIMIT, accept_now(stream, shared))
        .await
        .map_err(|_| ConnectionError::Protocol("handshake took too long"))?
}

async fn accept_now(stream: TcpStream, shared: &Arc<Shared>) -> Result<Option<Accepted>, ConnectionError> {
    stream.set_nodelay(true)?;
    let mut first = [0u8; 1];
    stream.peek(&mut first).await?;
    let (transport, encryption) = if first == [TLS_HANDSHAKE] {
        (Box::pin(strict(stream, shared)).await?, Encryption::On)
    } else {
        Box::pin(negotiate(stream, shared)).await?
    };
    let mut reader = PacketReader::new(transport);
    let message = read(&mut reader, PacketKind::Login).await?;
    let login = Login7::parse(&message).map_err(|_| ConnectionError::Protocol("malformed LOGIN7"))?;
    let transport = reader.into_inner();
    let transport = if encryption == Encryption::LoginOnly { transport.into_plain() } else { transport };
    let is_encrypted = matches!(transport, Transport::Tls(_));
    let (read_half, write_half) = tokio::io::split(transport);
    let mut writer = PacketWriter::new(write_half);
    let admitted = check(&login, shared).and_then(|()| shared.faults.admit(&shared.database, &login.user));
    let admission = match admitted {
        Ok(admission) => admission,
        Err(error) => {
            tracing::debug!(user = login.user, number = error.number, "login refused");
            write_error(&mut writer.buffer, &error);
            if error.number == 4060 {
                // SQL Server says both, in this order
                write_error(&mut writer.buffer, &login_failed(&login.user));
            }
            write_done(&mut writer.buffer, DoneKind::Batch, Done { error: true, ..Done::default() });
            writer.finish().await?;
            return Ok(None);
        }
    };
    acknowledge(&mut writer, &login, &shared.database, is_encrypted);
    tracing::debug!(
        user = login.user,
        host = login.host,
        application = login.application,
        encrypted = is_encrypted,
        "login"
    );
    Ok(Some(Accepted { reader: PacketReader::new(read_half), writer, user: login.user, admission }))
}

/// TDS 8: TLS first, and PRELOGIN within it.
async fn strict(stream: TcpStream, shared: &Shared) -> Result<Transport, ConnectionError> {
    let mut stream = HandshakeStream::new(stream);
    stream.finish_handshake();
    let tls = TlsAcceptor::from(shared.strict_tls.clone()).accept(stream).await?;
    let mut reader = PacketReader::new(Transport::Tls(Box::new(tls)));
    let message = read(&mut reader, PacketKind::PreLogin).await?;
    PreLogin::parse(&message).map_err(|_| ConnectionError::Protocol("malformed PRELOGIN"))?;
    let mut writer = PacketWriter::new(reader.into_inner());
    write_prelogin(&mut writer.buffer, Encryption::On);
    writer.finish().await?;
    Ok(writer.into_inner())
}

/// TDS 7.4: PRELOGIN in the clear, and TLS for what the two agree on.
async fn negotiate(stream: TcpStream, shared: &Shared) -> Result<(Transport, Encryption), ConnectionError> {
    let mut reader = PacketReader::new(stream);
    let message = read(&mut reader, PacketKind::PreLogin).await?;
    let asked = PreLogin::parse(&message).map_err(|_| ConnectionError::Protocol("malformed PRELOGIN"))?;
    let encryption = match asked.encryption {
        Encryption::NotSupported => Encryption::NotSupported,
        Encryption::LoginOnly => Encryption::LoginOnly,
        Encryption::On | Encryption::Required => Encryption::On,
    };
    let mut writer = PacketWriter::new(reader.into_inner());
    write_prelogin(&mut writer.buffer, encryption);
    writer.finish().await?;
    let stream = writer.into_inner();
    if encryption == Encryption::NotSupported {
        return Ok((Transport::Plain(stream), encryption));
    }
    let mut tls = TlsAcceptor::from(shared.tls.clone()).accept(HandshakeStream::new(stream)).await?;
    tls.get_mut().0.finish_handshake();
    Ok((Transport::Tls(Box::new(tls)), encryption))
}

fn check(login: &Login7, shared: &Shared) -> Result<(), SqlError> {
    if login.tds_version < TDS_7_1 && login.tds_version != TDS_8_0 {
        return Err(SqlError::unsupported("a TDS version before 7.2"));
    }
    if login.integrated {
        return Err(SqlError::new(
            18452,
            14,
            1,
            "Login failed. The login is from an untrusted domain and cannot be used with Integrated authentication.",
        ));
    }
    let known = shared
        .logins
        .iter()
        .any(|own| own.user.eq_ignore_ascii_case(&login.user) && own.password == login.password);
    if !known {
        return Err(login_failed(&login.user));
    }
    if !login.database.is_empty() && !login.database.eq_ignore_ascii_case(&shared.database) {
        return Err(SqlError::new(
            4060,
            11,
            1,
            format!("Cannot open database \"{}\" requested by the login. The login failed.", login.database),
        ));
    }
    Ok(())
}

fn login_failed(user: &str) -> SqlError {
    SqlError::new(18456, 14, 1, format!("Login failed for user '{user}'."))
}

/// Collects the answer to a login; it is sent when the session behind it stands.
fn acknowledge(writer: &mut Writer, login: &Login7, database: &str, is_encrypted: bool) {
    let largest = if is_encrypted { MAX_ENCRYPTED_PACKET_BYTES } else { MAX_PACKET_BYTES };
    let packet_bytes = match usize::try_from(login.packet_bytes) {
        Ok(0) | Err(_) => DEFAULT_PACKET_BYTES,
        Ok(asked) => asked.clamp(MIN_PACKET_BYTES, largest),
    };
    let out = &mut writer.buffer;
    write_environment_change(out, EnvironmentChange::Database { new: database, old: "master" });
    write_info(out, &SqlError::new(5701, 10, 2, format!("Changed database context to '{database}'.")));
    write_environment_change(out, EnvironmentChange::Collation(Collation::Latin1));
    write_environment_change(out, EnvironmentChange::Language("us_english"));
    write_info(out, &SqlError::new(5703, 10, 1, "Changed language setting to us_english."));
    write_login_ack(out, login.tds_version == TDS_8_0);
    write_environment_change(
        out,
        EnvironmentChange::PacketSize { new: packet_bytes, old: DEFAULT_PACKET_BYTES },
    );
    write_feature_ack(out, &login.features);
    write_done(out, DoneKind::Batch, Done::default());
    writer.set_packet_bytes(packet_bytes);
}

/// Sends the answer to the login.
pub(super) async fn welcome(writer: &mut Writer) -> Result<(), ConnectionError> {
    writer.finish().await
}

async fn read<R: tokio::io::AsyncRead + Unpin>(
    reader: &mut PacketReader<R>,
    expected: PacketKind,
) -> Result<BytesMut, ConnectionError> {
    let mut message = BytesMut::new();
    loop {
        let packet = reader.peek().await?;
        if packet.kind != expected {
            return Err(ConnectionError::Protocol("an unexpected packet before the login"));
        }
        reader.take(packet, &mut message);
        if message.len() > MAX_LOGIN_BYTES {
            return Err(ConnectionError::Protocol("a login too long"));
        }
        if packet.is_last() {
            return Ok(message);
        }
    }
}
