//! A host of client metadata documents. It serves https with a certificate of its own CA, and counts all
//! connections.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

#[derive(Default)]
struct Shelf {
    /// The responses by path, without the leading `HTTP/1.1 `.
    answers: HashMap<String, String>,
    /// The number of connections to each local address, whatever was sent on them.
    reached: HashMap<IpAddr, usize>,
}

/// A host that serves its documents on each listener that is passed to it.
#[derive(Clone)]
pub(crate) struct DocumentHost {
    /// The PEM file of the CA, for `EXTRA_CA_FILE`.
    pub(crate) ca: PathBuf,
    acceptor: TlsAcceptor,
    shelf: Arc<Mutex<Shelf>>,
}

impl DocumentHost {
    /// A host with a certificate for these names and addresses. The CA's certificate is written into
    /// `directory`.
    pub(crate) fn named(names: &[&str], directory: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &ca).unwrap();
        let file = directory.join("test-ca.pem");
        std::fs::write(&file, ca.pem()).unwrap();
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        Self { ca: file, acceptor: TlsAcceptor::from(Arc::new(config)), shelf: Arc::default() }
    }

    /// Starts to serve the documents on this listener.
    pub(crate) fn listen(&self, listener: std::net::TcpListener) {
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let host = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let local = stream.local_addr().unwrap().ip().to_canonical();
                *host.shelf.lock().unwrap().reached.entry(local).or_default() += 1;
                tokio::spawn(host.clone().answer(stream));
            }
        });
    }

    async fn answer(self, stream: TcpStream) {
        // The handshake fails if the client does not trust the certificate, or only connects to the port.
        let Ok(mut stream) = self.acceptor.accept(stream).await else { return };
        let mut request = vec![0; 4096];
        let read = stream.read(&mut request).await.unwrap_or_default();
        let request = String::from_utf8_lossy(&request[..read]).into_owned();
        let path = request.split(' ').nth(1).unwrap_or_default();
        let bare = path.split('?').next().unwrap_or_default();
        let answer = {
            let answers = &self.shelf.lock().unwrap().answers;
            answers.get(path).or_else(|| answers.get(bare)).cloned()
        };
        let answer = answer.unwrap_or_else(|| "404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned());
        stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await.ok();
        stream.shutdown().await.ok();
    }

    pub(crate) fn put_json(&self, path: &str, body: &Value) {
        let body = body.to_string();
        let length = body.len();
        let head = format!("200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
        self.put(path, head + &body);
    }

    pub(crate) fn put_redirect(&self, path: &str, location: &str) {
        self.put(path, format!("302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"));
    }

    pub(crate) fn put_page(&self, path: &str, text: &str) {
        let head = format!("200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n", text.len());
        self.put(path, head + text);
    }

    pub(crate) fn put_page_with_policy(&self, path: &str, html: &str, policy: &str) {
        let kind = format!("Content-Type: text/html\r\nContent-Security-Policy: {policy}");
        self.put(path, format!("200 OK\r\n{kind}\r\nContent-Length: {}\r\n\r\n{html}", html.len()));
    }

    fn put(&self, path: &str, answer: String) {
        self.shelf.lock().unwrap().answers.insert(path.to_owned(), answer);
    }

    /// The number of connections to each local address so far.
    pub(crate) fn reached(&self) -> HashMap<IpAddr, usize> {
        self.shelf.lock().unwrap().reached.clone()
    }

    /// Serves the metadata document of a public client at `path`. `id` is its URL.
    pub(crate) fn put_public_client(&self, id: &str, path: &str, name: &str, redirect_uri: &str) {
        let document = json!({
            "client_id": id,
            "client_name": name,
            "redirect_uris": [redirect_uri],
            "grant_types": ["authorization_code", "refresh_token"],
            "token_endpoint_auth_method": "none",
        });
        self.put_json(path, &document);
    }
}
