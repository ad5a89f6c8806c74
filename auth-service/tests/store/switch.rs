//! An address whose target can be changed, such as a host name in `REDIS_URL`.

/// An address that forwards to one server, and later to another. Existing connections remain connected to the first
/// one.
pub(super) struct Switch {
    pub(super) port: u16,
    target: std::sync::Arc<std::sync::atomic::AtomicU16>,
}

impl Switch {
    pub(super) fn start(target: u16) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = std::sync::Arc::new(std::sync::atomic::AtomicU16::new(target));
        let to = std::sync::Arc::clone(&target);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(near) = stream else { return };
                let port = to.load(std::sync::atomic::Ordering::SeqCst);
                let Ok(far) = std::net::TcpStream::connect(("127.0.0.1", port)) else { continue };
                let ends = [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)];
                for (mut from, mut to) in ends {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    });
                }
            }
        });
        Self { port, target }
    }

    pub(super) fn lead_to(&self, port: u16) {
        self.target.store(port, std::sync::atomic::Ordering::SeqCst);
    }
}
