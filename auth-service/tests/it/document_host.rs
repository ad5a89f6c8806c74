//! A host of client metadata documents. It serves https on loopback, with a certificate from its own CA.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// The response for a path.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(body: &serde_json::Value, cache_control: &str) -> Self {
        Self {
            head: format!("200 OK\r\nContent-Type: application/json\r\nCache-Control: {cache_control}"),
            body: body.to_string(),
        }
    }
}

#[derive(Default)]
struct Shelf {
    answers: HashMap<String, Answer>,
    requests: HashMap<String, usize>,
}

pub(crate) struct DocumentHost {
    pub(crate) origin: String,
    /// The file with the CA's certificate.
    pub(crate) ca: tempfile::NamedTempFile,
    shelf: Arc<Mutex<Shelf>>,
}

/// Makes a TLS certificate for `localhost`, and a file with the certificate of the new CA that signed it.
pub(crate) fn tls_of_localhost() -> (tempfile::NamedTempFile, TlsAcceptor) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), ca.pem()).unwrap();
    let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    (file, TlsAcceptor::from(Arc::new(config)))
}

impl DocumentHost {
    pub(crate) async fn start() -> Self {
        let (file, acceptor) = tls_of_localhost();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let shelf = Arc::<Mutex<Shelf>>::default();
        actix_web::rt::spawn(serve(listener, acceptor, Arc::clone(&shelf)));
        Self { origin, ca: file, shelf }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    pub(crate) fn put(&self, path: &str, answer: Answer) {
        self.shelf.lock().unwrap().answers.insert(path.to_owned(), answer);
    }

    pub(crate) fn requests(&self, path: &str) -> usize {
        self.shelf.lock().unwrap().requests.get(path).copied().unwrap_or_default()
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, shelf: Arc<Mutex<Shelf>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, shelf) = (acceptor.clone(), Arc::clone(&shelf));
        actix_web::rt::spawn(async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let mut head = vec![0; 4096];
            let read = stream.read(&mut head).await.unwrap_or_default();
            let path =
                String::from_utf8_lossy(&head[..read]).split(' ').nth(1).unwrap_or_default().to_owned();
            let answer = {
                let mut shelf = shelf.lock().unwrap();
                *shelf.requests.entry(path.clone()).or_default() += 1;
                shelf.answers.get(&path).cloned()
            };
            let Answer { head, body } =
                answer.unwrap_or(Answer { head: "404 Not Found".to_owned(), body: String::new() });
            let response = format!(
                "HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(response.as_bytes()).await;
            let _ = stream.shutdown().await;
        });
    }
}
