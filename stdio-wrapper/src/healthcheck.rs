//! `--healthcheck`: requests the health of a running wrapper. An image without a shell contains no other
//! program that could do this.

use std::net::SocketAddr;
use std::time::Duration;

use contract::health;

/// Maximum time for the response.
const PATIENCE: Duration = Duration::from_secs(3);

/// Requests `/health` from the wrapper with this `OPS_LISTEN`. For a response other than 200, the error is a
/// sentence that describes what happened.
pub(crate) fn ask(ops_listen: &str) -> Result<(), String> {
    let listener: SocketAddr = ops_listen.trim().parse().map_err(|_| {
        format!(
            "OPS_LISTEN is `{ops_listen}`, which is not an address with a port. Write it like 127.0.0.1:8081."
        )
    })?;
    let address = health::from_inside(listener);
    let answer = health::ask(address, "/health", PATIENCE).map_err(|error| {
        format!("no response from OPS_LISTEN ({address}): {error}. Is the wrapper running?")
    })?;
    answer.map(drop).map_err(|answer| format!("/health responded with {answer}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_is_said() {
        assert!(ask("here").unwrap_err().contains("OPS_LISTEN"));
    }
}
