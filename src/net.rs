//! The one HTTP and TLS set-up that every connection uses: rustls with the system's roots, or no verification at all
//! where the user said so.

use rustls::ClientConfig;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::UnixTime;
use std::sync::Arc;
use std::time::Duration;

/// How long a TCP and TLS connection may take to be made.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Makes ring the process's cryptography provider. May be called any number of times.
pub fn install_crypto_provider() {
    // An error says that a provider is installed already, which is what we want.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A client for HTTP and HTTPS. Timeouts of whole requests are the caller's business.
///
/// # Errors
/// Says in words why TLS cannot be set up (no system roots, for instance).
pub fn http_client(skip_verify: bool) -> Result<reqwest::Client, String> {
    install_crypto_provider();
    reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_keepalive(Duration::from_secs(30))
        .pool_idle_timeout(Duration::from_secs(60))
        .tls_danger_accept_invalid_certs(skip_verify)
        .redirect(reqwest::redirect::Policy::none())
        .http1_only()
        .user_agent(concat!("pollinator/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| describe(&e))
}

/// TLS settings for connections that are not HTTP requests (websockets).
///
/// # Errors
/// Says in words why there are no roots to trust.
pub fn tls_config(skip_verify: bool) -> Result<Arc<ClientConfig>, String> {
    install_crypto_provider();
    let builder = ClientConfig::builder();
    if skip_verify {
        let config = builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny)).with_no_client_auth();
        return Ok(Arc::new(config));
    }
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(format!("the system has no certificate roots ({:?}); install ca-certificates", found.errors));
    }
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// An error with all its causes, on one line, without addresses' query parts (they may carry signatures).
pub fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = next.source();
    }
    text
}

/// Whether a failed connection (in the words of [`describe`]) failed for the server's certificate.
pub fn is_about_certificates(reason: &str) -> bool {
    reason.contains("certificate") || reason.contains("UnknownIssuer")
}

/// Takes any certificate: what `…_SKIPVERIFY=true` asks for.
#[derive(Debug)]
struct AcceptAny;

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
