//! TLS with NATS: who may have signed the server's certificate, and which one is shown to it.
//!
//! Both can change while the client lives. The client is given one configuration for good, which asks at every
//! handshake; nothing is resumed, because a session that is resumed verifies nothing, and the server goes on with the
//! certificate that it was shown before.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::distrust::Distrust;
use super::lifetime::{self, Lifetime};
use super::nats::NatsIdentity;
use super::{IdentityError, IdentityErrorKind, malformed, read_certificates, read_file};
use crate::config::NatsTlsConfig;

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())))
}

/// What the files of `nats.tls` hold.
#[derive(Debug, Default)]
pub(super) struct TlsFiles {
    /// Of the authorities in `ca_file`; `None` where those of the system are meant.
    verifier: Option<Arc<WebPkiServerVerifier>>,
    /// Of `cert_file` and `key_file`.
    certificate: Option<Arc<CertifiedKey>>,
    /// Of the certificate.
    pub(super) lifetime: Lifetime,
}

/// Reads the files, and hands the content of each to `seen`.
///
/// # Errors
///
/// One of them cannot be read, is not PEM, or the key is not that of the certificate.
pub(super) fn read(config: &NatsTlsConfig, mut seen: impl FnMut(&[u8])) -> Result<TlsFiles, IdentityError> {
    let mut files = TlsFiles::default();
    if let Some(path) = &config.ca_file {
        let field = "nats.tls.ca_file";
        let mut roots = RootCertStore::empty();
        for certificate in certificates(field, path, &mut seen)? {
            roots.add(certificate).map_err(|_not_one_of_an_authority| malformed(field, path))?;
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
        files.verifier = Some(verifier.map_err(|_no_roots| malformed(field, path))?);
    }
    if let (Some(path), Some(key_path)) = (&config.cert_file, &config.key_file) {
        let (field, key_field) = ("nats.tls.cert_file", "nats.tls.key_file");
        let chain = certificates(field, path, &mut seen)?;
        let first = chain.first().and_then(lifetime::of_certificate);
        files.lifetime = first.ok_or_else(|| malformed(field, path))?;
        let text = read_file(key_field, key_path)?;
        seen(text.expose().as_bytes());
        let key = PrivateKeyDer::from_pem_slice(text.expose().as_bytes())
            .map_err(|_may_quote_it| malformed(key_field, key_path))?;
        let pair = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                let kind = IdentityErrorKind::Mismatched(field);
                IdentityError { kind, ..malformed(key_field, key_path) }
            }
            _ => malformed(key_field, key_path),
        })?;
        files.certificate = Some(Arc::new(pair));
    }
    Ok(files)
}

fn certificates(
    field: &'static str,
    path: &Path,
    seen: &mut impl FnMut(&[u8]),
) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let text = read_certificates(field, path)?;
    seen(&text);
    let found: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|_may_quote_it| malformed(field, path))?;
    // half of a file is one whose last certificate has no end, and that is an error above; or a file without any
    if found.is_empty() { Err(malformed(field, path)) } else { Ok(found) }
}

/// A configuration that asks `identity` at every handshake.
///
/// # Errors
///
/// The library has no version of TLS in common with its own provider: never, in a build that works at all.
pub(super) fn client_config(identity: &Arc<NatsIdentity>) -> Result<ClientConfig, rustls::Error> {
    let asks = Arc::new(Asks { identity: Arc::clone(identity) });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&asks) as Arc<dyn ServerCertVerifier>)
        .with_client_cert_resolver(asks);
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The authorities of this machine, looked up when they are first needed.
fn of_the_system() -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
    static SYSTEM: OnceLock<Option<Arc<WebPkiServerVerifier>>> = OnceLock::new();
    let look_up = || {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build().ok()
    };
    SYSTEM.get_or_init(look_up).clone().ok_or_else(|| {
        rustls::Error::General("this machine knows no authority, name one in nats.tls.ca_file".to_owned())
    })
}

/// Verifies by the authorities that the identity has now, and shows the certificate that it has now.
#[derive(Debug)]
struct Asks {
    identity: Arc<NatsIdentity>,
}

impl Asks {
    fn verifier(&self) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
        self.identity.offered().tls.verifier.clone().map_or_else(of_the_system, Ok)
    }
}

impl ServerCertVerifier for Asks {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.verifier().and_then(|verifier| {
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        });
        if let Err(error) = &verified {
            self.identity.server_refused(words(error));
        }
        verified
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier()?.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier()?.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ResolvesClientCert for Asks {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.identity.offered().tls.certificate.clone()
    }

    fn has_certs(&self) -> bool {
        self.identity.offered().tls.certificate.is_some()
    }
}

/// Why a handshake failed, in words for whoever has to mend it.
pub(crate) fn words(error: &rustls::Error) -> String {
    let distrust = match error {
        rustls::Error::InvalidCertificate(why) => match Distrust::of(why) {
            Some(distrust) => distrust,
            None => return format!("the server's certificate is refused: {why:?}"),
        },
        rustls::Error::InvalidMessage(_) => Distrust::Plaintext,
        rustls::Error::AlertReceived(alert) => {
            return format!("the server refuses the handshake: {alert:?}: see nats.tls.cert_file");
        }
        other => return format!("tls: {other}"),
    };
    distrust.words("nats.tls.ca_file", "nats.servers")
}
