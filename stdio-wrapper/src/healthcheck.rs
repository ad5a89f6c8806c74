//! `--healthcheck`: requests the health of a running wrapper. An image without a shell contains no other
//! program that could do this.

use std::net::SocketAddr;
use std::time::Duration;

use contract::health;
use stdio_wrapper::config::Given;

/// Maximum time for the response.
const PATIENCE: Duration = Duration::from_secs(3);

/// Requests `/health` from the wrapper with this `OPS_LISTEN`. For a response other than 200, the error is a
/// sentence that describes what happened.
pub(crate) fn ask(ops_listen: &Given<SocketAddr>) -> Result<(), String> {
    let listener = ops_listen.checked().map_err(|problems| problems.join(" "))?;
    let address = health::from_inside(*listener);
    let answer = health::ask(address, "/health", PATIENCE).map_err(|error| {
        format!("no response from OPS_LISTEN ({address}): {error}. Is the wrapper running?")
    })?;
    answer.map(drop).map_err(|answer| format!("/health responded with {answer}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use stdio_wrapper::config::Options;

    use super::*;

    #[test]
    fn what_is_no_address_is_said() {
        let options = Options::try_parse_from(["stdio-wrapper", "--ops-listen", "here"]).unwrap();
        assert!(ask(&options.ops_listen).unwrap_err().starts_with("OPS_LISTEN is `here`"));
    }
}
