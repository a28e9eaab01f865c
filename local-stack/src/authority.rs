//! An authority that signs certificates for servers and clients of a test.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Pem {
    /// The certificate.
    pub certificate: String,
    /// Its key, which is a secret.
    pub key: String,
}

/// Signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// Where no key can be made.
    pub fn new() -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "nats-sql-sink local stack, a test");
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    /// Its own certificate, for those who are to trust it.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// For a server by these names or addresses.
    ///
    /// # Errors
    /// Where a name is none, or no key can be made.
    pub fn server(&self, names: &[&str]) -> Result<Pem, rcgen::Error> {
        let until = SystemTime::now() + DAY;
        self.sign(names, "server", ExtendedKeyUsagePurpose::ServerAuth, until)
    }

    /// For a server, and over since yesterday.
    ///
    /// # Errors
    /// As of [`Authority::server`].
    pub fn expired_server(&self, names: &[&str]) -> Result<Pem, rcgen::Error> {
        let until = SystemTime::now() - DAY;
        self.sign(names, "server", ExtendedKeyUsagePurpose::ServerAuth, until)
    }

    /// For a client of this name, until then.
    ///
    /// # Errors
    /// Where no key can be made.
    pub fn client(&self, name: &str, until: SystemTime) -> Result<Pem, rcgen::Error> {
        self.sign(&[], name, ExtendedKeyUsagePurpose::ClientAuth, until)
    }

    fn sign(
        &self,
        names: &[&str],
        common_name: &str,
        usage: ExtendedKeyUsagePurpose,
        until: SystemTime,
    ) -> Result<Pem, rcgen::Error> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![usage];
        params.not_before = (SystemTime::now().min(until) - DAY).into();
        params.not_after = until.into();
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Pem { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}
