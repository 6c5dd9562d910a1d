//! One document over HTTP or HTTPS: a bounded answer, no redirect followed, certificates checked by
//! what the system trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others).

use std::{io, sync::Arc};

use bytes::Bytes;
use http::{
    Request, StatusCode, Uri,
    header::{ACCEPT, HOST},
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::places::Places;

/// Most bytes of a document.
const DOCUMENT_MAX: usize = 1 << 20;

pub(super) struct Getter {
    places: Arc<Places>,
    tls: tokio::sync::OnceCell<TlsConnector>,
}

impl Getter {
    pub fn new(places: Arc<Places>) -> Self {
        Self {
            places,
            tls: tokio::sync::OnceCell::new(),
        }
    }

    /// With roots of its own.
    #[cfg(test)]
    pub fn trusting(places: Arc<Places>, roots: rustls::RootCertStore) -> io::Result<Self> {
        Ok(Self {
            places,
            tls: tokio::sync::OnceCell::new_with(Some(connector(roots)?)),
        })
    }

    /// The text of a document.
    pub async fn get(&self, address: &str) -> io::Result<String> {
        let uri: Uri = address.parse().map_err(io::Error::other)?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(io::Error::other("its address is neither http nor https")),
        };
        let host = uri.host().unwrap_or_default().to_owned();
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let stream = TcpStream::connect(self.places.find(&host, port).await?).await?;
        if https {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            let name = ServerName::try_from(bare.to_owned()).map_err(io::Error::other)?;
            let tls = self.tls.get_or_try_init(trusted).await?;
            let stream = tls.connect(name, stream).await?;
            read(stream, &uri).await
        } else {
            read(stream, &uri).await
        }
    }
}

/// What the system trusts; read once, when a key set is first to be had over HTTPS.
async fn trusted() -> io::Result<TlsConnector> {
    let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs);
    let found = found.await.map_err(io::Error::other)?;
    let mut roots = rustls::RootCertStore::empty();
    let (good, bad) = roots.add_parsable_certificates(found.certs);
    if good == 0 {
        return Err(io::Error::other(format!(
            "the system trusts no certificate authority ({bad} unusable, {:?}): install \
             ca-certificates, or name a file with SSL_CERT_FILE",
            found.errors
        )));
    }
    connector(roots)
}

fn connector(roots: rustls::RootCertStore) -> io::Result<TlsConnector> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn read<S>(stream: S, uri: &Uri) -> io::Result<String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let request = Request::get(uri.path_and_query().map_or("/", |target| target.as_str()))
        .header(HOST, uri.authority().map_or("", |a| a.as_str()))
        .header(ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let response = sender.send_request(request).await;
    let response = response.map_err(io::Error::other)?;
    if response.status() != StatusCode::OK {
        return Err(io::Error::other(format!(
            "it answered {}",
            response.status()
        )));
    }
    let body = Limited::new(response.into_body(), DOCUMENT_MAX);
    let body = body.collect().await.map_err(io::Error::other)?;
    connection.abort();
    String::from_utf8(body.to_bytes().into()).map_err(io::Error::other)
}
