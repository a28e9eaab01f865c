//! Access tokens by the credentials of `azure_identity`: managed and workload identities, applications, and the Azure CLI.
//!
//! A credential is made for each request. It would keep a token until five minutes before its end, and the federated token
//! of a workload for ten minutes, whereas here the next one is wanted earlier: see `token.rs`.

mod assertion;
mod explain;
mod transport;

use std::sync::Arc;

use azure_core::cloud::CustomConfiguration;
use azure_core::credentials::{Secret as AzureSecret, TokenCredential};
use azure_core::http::{ClientOptions, RetryOptions, Transport};
use azure_identity::{
    AzureCliCredential, AzureCliCredentialOptions, ClientAssertionCredential,
    ClientAssertionCredentialOptions, ClientSecretCredential, ClientSecretCredentialOptions,
    ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId, WorkloadIdentityCredential,
    WorkloadIdentityCredentialOptions,
};

use super::token::{Fetched, TokenError};
use super::{IdentityError, Secret, read, read_file};
use crate::config::{AuthConfig, AuthMethod};
use assertion::Certificate;
use transport::Bounded;

impl From<IdentityError> for TokenError {
    /// A secret that cannot be read, or is none.
    fn from(error: IdentityError) -> Self {
        Self::refused(error.to_string())
    }
}

/// Asks once, as the configuration says.
pub(super) async fn fetch(auth: &AuthConfig) -> Result<Fetched, TokenError> {
    let transport = Arc::new(Bounded::new(auth)?);
    let failed = |error: &azure_core::Error| explain::explain(error, auth, transport.last_status());
    let credential = credential(auth, Arc::clone(&transport))?;
    let credential = credential.map_err(|error| failed(&error))?;
    // boxed: the requests are large state machines
    let token =
        Box::pin(credential.get_token(&[auth.scope()], None)).await.map_err(|error| failed(&error))?;
    Ok(Fetched {
        secret: Secret::new(token.token.secret()),
        ends: Some(std::time::SystemTime::from(token.expires_on)),
    })
}

/// The credential, or why `azure_identity` does not make one; the outer error is about a secret of our own.
fn credential(
    auth: &AuthConfig,
    transport: Arc<Bounded>,
) -> Result<azure_core::Result<Arc<dyn TokenCredential>>, TokenError> {
    let (fields, client_options) = (auth.fields(), client_options(auth, transport));
    let (tenant, client) =
        (auth.tenant_id.clone().unwrap_or_default(), auth.client_id.clone().unwrap_or_default());
    Ok(match auth.method {
        AuthMethod::ManagedIdentity => {
            let options = ManagedIdentityCredentialOptions {
                user_assigned_id: auth.client_id.clone().map(UserAssignedId::ClientId),
                client_options,
            };
            ManagedIdentityCredential::new(Some(options)).map(|credential| credential as _)
        }
        AuthMethod::WorkloadIdentity => {
            if let Some(path) = &auth.token_file {
                // azure_identity says only that it failed
                read_file(fields.token_file, path)?;
            }
            let options = WorkloadIdentityCredentialOptions {
                credential_options: ClientAssertionCredentialOptions { client_options },
                client_id: auth.client_id.clone(),
                tenant_id: auth.tenant_id.clone(),
                token_file_path: auth.token_file.clone(),
            };
            WorkloadIdentityCredential::new(Some(options)).map(|credential| credential as _)
        }
        AuthMethod::ClientSecret => {
            let source = auth.client_secret_source().ok_or_else(|| no_field(fields.client_secret_file))?;
            let secret = read(fields.client_secret_file, fields.client_secret, &source)?;
            let secret = AzureSecret::new(secret.expose().to_owned());
            let options = Some(ClientSecretCredentialOptions { client_options });
            ClientSecretCredential::new(&tenant, client, secret, options).map(|credential| credential as _)
        }
        AuthMethod::ClientCertificate => {
            let path = auth.certificate_file.as_ref().ok_or_else(|| no_field(fields.certificate_file))?;
            let certificate = Certificate::read(path, auth)?;
            let options = Some(ClientAssertionCredentialOptions { client_options });
            ClientAssertionCredential::new(tenant, client, certificate, options)
                .map(|credential| credential as _)
        }
        AuthMethod::AzureCli => {
            let options =
                AzureCliCredentialOptions { tenant_id: auth.tenant_id.clone(), ..Default::default() };
            AzureCliCredential::new(Some(options)).map(|credential| credential as _)
        }
        AuthMethod::SqlLogin | AuthMethod::AccessTokenFile => {
            return Err(TokenError::refused(format!(
                "{}.method = \"{}\" asks nobody for a token",
                fields.table,
                auth.method.as_str()
            )));
        }
    })
}

fn client_options(auth: &AuthConfig, transport: Arc<Bounded>) -> ClientOptions {
    let mut cloud = CustomConfiguration::default();
    auth.authority().clone_into(&mut cloud.authority_host);
    ClientOptions {
        transport: Some(Transport::new(transport)),
        // The cache of tokens tries again, and says why.
        retry: RetryOptions::none(),
        cloud: Some(Arc::new(cloud.into())),
        ..ClientOptions::default()
    }
}

fn no_field(name: &str) -> TokenError {
    TokenError::refused(format!("{name} is missing"))
}
