//! `--healthcheck`: asks a running wrapper. An image without a shell contains no other program that could do
//! this.

use std::net::SocketAddr;
use std::time::Duration;

use contract::health;

/// How long to wait for the answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks the wrapper with this `OPS_LISTEN` for `/health`. Anything but 200 is an error, which is one sentence
/// about what happened instead.
pub(crate) fn ask(ops_listen: &str) -> Result<(), String> {
    let listener: SocketAddr = ops_listen.trim().parse().map_err(|_| {
        format!(
            "OPS_LISTEN is `{ops_listen}`, which is not an address with a port. Write it like 127.0.0.1:8081."
        )
    })?;
    let address = health::from_inside(listener);
    let answer = health::ask(address, "/health", PATIENCE).map_err(|error| {
        format!("nothing answers at OPS_LISTEN ({address}): {error}. Is the wrapper running?")
    })?;
    answer.map(drop).map_err(|answer| format!("/health answered {answer}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_is_said() {
        assert!(ask("here").unwrap_err().contains("OPS_LISTEN"));
    }
}
