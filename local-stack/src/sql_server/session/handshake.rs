//! From the first byte to a login that holds.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::super::Shared;
use super::super::error::SqlError;
use super::super::faults::Admission;
use super::super::login::{Encryption, Federation, Login7, MAX_LOGIN_BYTES, Nonce, PreLogin, write_prelogin};
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
use super::identity::{Identity, Refused, identify, login_failed};
use super::{Reader, Route, Writer};

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
    pub(super) identity: Identity,
    pub(super) admission: Admission,
}

/// Leads a client through PRELOGIN, TLS and LOGIN7. `None` where its login was refused, or leads elsewhere.
pub(super) async fn accept(
    stream: TcpStream,
    shared: &Arc<Shared>,
    route: Option<&Route>,
) -> Result<Option<Accepted>, ConnectionError> {
    tokio::time::timeout(HANDSHAKE_LIMIT, accept_now(stream, shared, route))
        .await
        .map_err(|_| ConnectionError::Protocol("handshake took too long"))?
}

async fn accept_now(
    stream: TcpStream,
    shared: &Arc<Shared>,
    route: Option<&Route>,
) -> Result<Option<Accepted>, ConnectionError> {
    stream.set_nodelay(true)?;
    let mut first = [0u8; 1];
    stream.peek(&mut first).await?;
    let Negotiated { transport, encryption, federation } = if first == [TLS_HANDSHAKE] {
        Box::pin(strict(stream, shared)).await?
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
    let identity = match check(&login, &federation, shared).await? {
        Ok(identity) => identity,
        Err(errors) => return refuse(&mut writer, &login, &errors).await,
    };
    let nonce = federation.client_nonce.as_ref();
    if let Some(route) = route {
        acknowledge(
            &mut writer,
            &login,
            &shared.database,
            Answer { is_encrypted, nonce, route: Some(route) },
        );
        writer.finish().await?;
        return Ok(None);
    }
    let admission = match shared.faults.admit(&shared.database, identity.shown_in_errors()) {
        Ok(admission) => admission,
        Err(error) => return refuse(&mut writer, &login, &[error]).await,
    };
    acknowledge(&mut writer, &login, &shared.database, Answer { is_encrypted, nonce, route: None });
    tracing::debug!(
        login = identity.login,
        user = identity.user,
        host = login.host,
        application = login.application,
        encrypted = is_encrypted,
        "login"
    );
    Ok(Some(Accepted { reader: PacketReader::new(read_half), writer, identity, admission }))
}

async fn refuse(
    writer: &mut Writer,
    login: &Login7,
    errors: &[SqlError],
) -> Result<Option<Accepted>, ConnectionError> {
    for error in errors {
        tracing::debug!(user = login.user, number = error.number, "login refused");
        write_error(&mut writer.buffer, error);
    }
    write_done(&mut writer.buffer, DoneKind::Batch, Done { error: true, ..Done::default() });
    writer.finish().await?;
    Ok(None)
}

/// A connection that is ready for the login.
struct Negotiated {
    transport: Transport,
    encryption: Encryption,
    federation: Federation,
}

fn federation(asked: &PreLogin, shared: &Shared) -> Federation {
    let random = || -> Nonce {
        let mut nonce = Nonce::default();
        let halves = nonce.chunks_exact_mut(16);
        halves.for_each(|half| half.copy_from_slice(uuid::Uuid::new_v4().as_bytes()));
        nonce
    };
    Federation {
        required: asked.federated.map(|asked| asked && shared.tokens.is_some()),
        client_nonce: asked.nonce,
        server_nonce: asked.nonce.map(|_| random()),
    }
}

/// TDS 8: TLS first, and PRELOGIN within it.
async fn strict(stream: TcpStream, shared: &Shared) -> Result<Negotiated, ConnectionError> {
    let mut stream = HandshakeStream::new(stream);
    stream.finish_handshake();
    let tls = TlsAcceptor::from(shared.strict_tls.clone()).accept(stream).await?;
    let mut reader = PacketReader::new(Transport::Tls(Box::new(tls)));
    let message = read(&mut reader, PacketKind::PreLogin).await?;
    let asked = PreLogin::parse(&message).map_err(|_| ConnectionError::Protocol("malformed PRELOGIN"))?;
    let federation = federation(&asked, shared);
    let mut writer = PacketWriter::new(reader.into_inner());
    write_prelogin(&mut writer.buffer, Encryption::On, &federation);
    writer.finish().await?;
    Ok(Negotiated { transport: writer.into_inner(), encryption: Encryption::On, federation })
}

/// TDS 7.4: PRELOGIN in the clear, and TLS for what the two agree on.
async fn negotiate(stream: TcpStream, shared: &Shared) -> Result<Negotiated, ConnectionError> {
    let mut reader = PacketReader::new(stream);
    let message = read(&mut reader, PacketKind::PreLogin).await?;
    let asked = PreLogin::parse(&message).map_err(|_| ConnectionError::Protocol("malformed PRELOGIN"))?;
    let encryption = match asked.encryption {
        Encryption::NotSupported => Encryption::NotSupported,
        Encryption::LoginOnly => Encryption::LoginOnly,
        Encryption::On | Encryption::Required => Encryption::On,
    };
    let mut writer = PacketWriter::new(reader.into_inner());
    let federation = federation(&asked, shared);
    write_prelogin(&mut writer.buffer, encryption, &federation);
    writer.finish().await?;
    let stream = writer.into_inner();
    if encryption == Encryption::NotSupported {
        return Ok(Negotiated { transport: Transport::Plain(stream), encryption, federation });
    }
    let mut tls = TlsAcceptor::from(shared.tls.clone()).accept(HandshakeStream::new(stream)).await?;
    tls.get_mut().0.finish_handshake();
    Ok(Negotiated { transport: Transport::Tls(Box::new(tls)), encryption, federation })
}

async fn check(
    login: &Login7,
    federation: &Federation,
    shared: &Arc<Shared>,
) -> Result<Result<Identity, Refused>, ConnectionError> {
    if login.tds_version < TDS_7_1 && login.tds_version != TDS_8_0 {
        return Ok(Err(vec![SqlError::unsupported("a TDS version before 7.2")]));
    }
    if login.integrated {
        return Ok(Err(vec![SqlError::new(
            18452,
            14,
            1,
            "Login failed. The login is from an untrusted domain and cannot be used with Integrated authentication.",
        )]));
    }
    let identity = match identify(login, federation, shared).await? {
        Ok(identity) => identity,
        Err(errors) => return Ok(Err(errors)),
    };
    if !login.database.is_empty() && !login.database.eq_ignore_ascii_case(&shared.database) {
        let message =
            format!("Cannot open database \"{}\" requested by the login. The login failed.", login.database);
        // SQL Server says both, in this order
        return Ok(Err(vec![SqlError::new(4060, 11, 1, message), login_failed(identity.shown_in_errors())]));
    }
    Ok(Ok(identity))
}

/// What the answer to a login depends on, besides the login.
#[derive(Clone, Copy)]
struct Answer<'a> {
    is_encrypted: bool,
    /// The client's, to be sent back with the acknowledgement of its token.
    nonce: Option<&'a Nonce>,
    route: Option<&'a Route>,
}

/// Collects the answer to a login; it is sent when the session behind it stands.
fn acknowledge(writer: &mut Writer, login: &Login7, database: &str, answer: Answer<'_>) {
    let packet_bytes = packet_bytes(login.packet_bytes, answer.is_encrypted);
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
    write_feature_ack(out, &login.features, answer.nonce);
    if let Some(Route { host, port }) = answer.route {
        write_environment_change(out, EnvironmentChange::Routing { host, port: *port });
    }
    write_done(out, DoneKind::Batch, Done::default());
    writer.set_packet_bytes(packet_bytes);
}

/// What becomes of the size of packets that a client asks for.
fn packet_bytes(asked: u32, is_encrypted: bool) -> usize {
    let largest = if is_encrypted { MAX_ENCRYPTED_PACKET_BYTES } else { MAX_PACKET_BYTES };
    match usize::try_from(asked) {
        Ok(0) | Err(_) => DEFAULT_PACKET_BYTES,
        Ok(asked) => asked.clamp(MIN_PACKET_BYTES, largest),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_under_tls_fit_a_record() {
        let granted = [0, 511, 512, 16_383, 16_384, 32_767, u32::MAX].map(|asked| packet_bytes(asked, true));
        assert_eq!(granted, [4096, 512, 512, 16_383, 16_383, 16_383, 16_383]);
    }
}
